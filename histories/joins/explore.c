/* The model of joins (model.py) with the present rule (rules.py), fast enough for all states of six nodes.
 *
 *   explore OLD NEW ORDER DEATHS WRITES CUTS SINGLE REMEMBERS MOST
 *
 * ORDER: the nodes by their distance to the key, as digits. Prints "states complete depth broken", and the steps that lead to a
 * broken promise, one a line. Breadth first. Of a visited state only a 64-bit hash is kept (hash compaction: Wolper and Leroy,
 * "Reliable hashing without collision detection", 1993): with 10^8 states the chance that one is taken for another is 3 in 10,000.
 *
 * The names are those of model.py, which says what each step means. The tests compare the numbers of states.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_NODES 7
#define REPLICAS 3
#define MAJORITY 2
#define REACH_STAGE (2 * REPLICAS)

enum { EQUAL = 1, AGREED = 2, SOUND = 4, FRESH = 8, SILENT = 16 };

/* Sets of nodes are bits. No padding: the bytes are hashed. */
typedef struct {
	uint8_t views[MAX_NODES], records[MAX_NODES], compared[MAX_NODES][MAX_NODES];
	uint8_t alive, caught_up, held, side, acknowledged, deaths, writes, cuts;
	uint8_t version, coordinator, known, having, counted; /* of the write under way */
	uint8_t spare[4];
} State;
_Static_assert(sizeof(State) == 80, "a State is hashed as ten words");

static int size, old, order[MAX_NODES], place[MAX_NODES], single, remembers;

static int bits(unsigned set) { return __builtin_popcount(set); }
static int has(unsigned set, int node) { return set >> node & 1; }
static uint8_t larger(uint8_t a, uint8_t b) { return a > b ? a : b; }

static unsigned closest(unsigned nodes)
{
	unsigned found = 0;
	int count = 0;

	for (int i = 0; i < size && count < REPLICAS; i++)
		if (has(nodes, order[i])) {
			found |= 1u << order[i];
			count++;
		}
	return found;
}

static unsigned keepers(const State *s, int node) { return closest(s->views[node] | 1u << node); }
static unsigned seats(const State *s) { return closest(s->known & ~(s->having & ~s->counted)); }
static unsigned targets(const State *s) { return closest(s->known) | seats(s); }
static int reaches(const State *s, int a, int b) { return !s->side || has(s->side, a) == has(s->side, b); }
static int answers(const State *s, int node) { return has(s->caught_up | s->held, node); }

/* --- The present rule ------------------------------------------------------------------ */

static int has_caught_up(const State *s, int node)
{
	unsigned own = keepers(s, node), view = s->views[node];
	int known = bits(view), need = (known < REPLICAS ? known : REPLICAS) / 2 + 1;
	int sound = 0, at = 0, stage = REACH_STAGE;

	if (!known)
		return 0; /* it was cut off, and one node alone confirms nothing */
	for (int i = 0; i < size; i++) {
		int other = order[i], said = s->compared[node][other];
		if (has(view & own, other) && !(said & SILENT || (said & EQUAL && said & AGREED)))
			return 0;
	}
	for (int i = 0; i < size; i++) {
		int said = s->compared[node][order[i]];
		if (!has(view, order[i]))
			continue;
		sound += (said & SOUND) != 0;
		if (!(said & (SOUND | SILENT | FRESH)))
			return 0;
		if (++at == stage) {
			if (sound >= need)
				return 1;
			stage *= 2;
		}
	}
	if (sound >= need)
		return 1;
	for (int i = 0; i < size; i++) {
		int said = s->compared[node][i];
		if (has(view, i) && !(said & EQUAL || (said & SILENT && sound)))
			return 0;
	}
	return 1;
}

static int agrees(const State *s, int node, int other)
{
	unsigned theirs = keepers(s, other), own = keepers(s, node), unknown = theirs & ~own;
	int farthest = 0;

	if (!has(theirs, node))
		return 0;
	if (s->version && s->coordinator == other && !has(targets(s), node))
		return 0; /* its writes and reads with an older view have not ended */
	if (!unknown)
		return 1;
	for (int i = 0; i < size; i++)
		if (has(own, i) && place[i] > farthest)
			farthest = place[i];
	for (int i = 0; i < size; i++)
		if (has(unknown, i) && place[i] <= farthest)
			return 0;
	return bits(own) >= REPLICAS;
}

static int misses(const State *s, int reader, int below)
{
	int seated = 0, lacking = 0;
	unsigned view = s->views[reader] | 1u << reader;

	if (s->records[reader] >= below)
		return 0;
	for (int i = 0; i < size && seated < REPLICAS; i++) {
		int each = order[i];
		int counts = answers(s, each) && !(each == reader && !has(s->caught_up, reader));
		if (!has(view, each) || (has(s->alive, each) && !counts && s->records[each] < below))
			continue;
		seated++;
		lacking += counts && has(s->alive, each) && s->records[each] < below;
	}
	return lacking >= MAJORITY;
}

static const char *broken(const State *s)
{
	for (int node = 0; s->acknowledged && node < size; node++)
		if (has(s->alive, node) && has(keepers(s, node), node)) {
			if (misses(s, node, 1))
				return "may say NOT_FOUND, and take if_version=0";
			if (misses(s, node, s->acknowledged))
				return "may answer a quorum read with less than what was acknowledged";
		}
	return NULL;
}

/* --- Visited states -------------------------------------------------------------------- */

static uint64_t hash(const State *s)
{
	uint64_t words[sizeof *s / 8], h = 0x9e3779b97f4a7c15;

	memcpy(words, s, sizeof *s);
	for (size_t i = 0; i < sizeof *s / 8; i++) {
		unsigned __int128 product = (unsigned __int128)(words[i] ^ h) * 0xd6e8feb86659fd93;
		h = (uint64_t)product ^ (uint64_t)(product >> 64) ^ (h << 7 | h >> 57);
		h ^= h >> 32;
	}
	return h ? h : 1;
}

static uint64_t *seen, *from, room, count;

static void *taken(void *memory)
{
	if (!memory) {
		fprintf(stderr, "explore: no memory left after %llu states\n", (unsigned long long)count);
		exit(3);
	}
	return memory;
}

static int insert(uint64_t h, uint64_t before)
{
	uint64_t at = h & (room - 1);

	while (seen[at]) {
		if (seen[at] == h)
			return 0;
		at = (at + 1) & (room - 1);
	}
	seen[at] = h;
	from[at] = before;
	count++;
	return 1;
}

static uint64_t origin(uint64_t h)
{
	uint64_t at = h & (room - 1);

	while (seen[at] != h)
		at = (at + 1) & (room - 1);
	return from[at];
}

static void grow(void)
{
	uint64_t *hashes = seen, *origins = from, before = room;

	room = room ? room * 2 : 1 << 16;
	seen = taken(calloc(room, sizeof *seen));
	from = taken(calloc(room, sizeof *from));
	count = 0;
	for (uint64_t i = 0; i < before; i++)
		if (hashes[i])
			insert(hashes[i], origins[i]);
	free(hashes);
	free(origins);
}

/* --- What comes next ------------------------------------------------------------------- */

typedef struct {
	State *states;
	size_t count, room;
} List;

static List next;
static uint64_t current;
static uint64_t wanted; /* of a trace: the state whose step is told */
static char told[64];
static const char *what_broke;
static uint64_t broke_at;

static void yield(const State *s, const char *name, int node, int other)
{
	uint64_t h = hash(s);

	if (wanted) {
		if (h == wanted && !*told)
			snprintf(told, sizeof told, name, node, other);
		return;
	}
	if (what_broke)
		return;
	if (count * 10 > room * 7)
		grow();
	if (!insert(h, current))
		return;
	if ((what_broke = broken(s)))
		broke_at = h;
	if (next.count == next.room) {
		next.room = next.room ? next.room * 2 : 1024;
		next.states = taken(realloc(next.states, next.room * sizeof *next.states));
	}
	next.states[next.count++] = *s;
}

static void renew(State *s)
{
	for (int node = 0; node < size; node++)
		if (has(s->alive & ~s->caught_up, node) && has(keepers(s, node), node) && has_caught_up(s, node)) {
			s->caught_up |= 1u << node;
			memset(s->compared[node], 0, sizeof s->compared[node]);
		}
}

static State sees(const State *s, int node, unsigned view)
{
	State after = *s;
	unsigned me = 1u << node;

	after.views[node] = view;
	for (int other = 0; other < size; other++)
		if (!has(view, other))
			after.compared[node][other] = 0;
	if (!view) {
		after.caught_up &= ~me;
		after.held &= ~me;
	}
	if (has(keepers(&after, node), node)) {
		after.held &= ~me;
	} else if (after.caught_up & me) {
		after.caught_up &= ~me;
		after.held |= me;
	}
	renew(&after);
	return after;
}

static void learns(const State *s, int node)
{
	for (int other = 0; other < size; other++) {
		int there = has(s->alive, other) && reaches(s, node, other);
		if (other == node || has(s->views[node], other) == there)
			continue;
		State after = sees(s, node, s->views[node] ^ 1u << other);
		yield(&after, there ? "n%d learns of n%d" : "n%d gives up n%d", node, other);
	}
}

/* Compare with one node. Returns 0 if that changes nothing. */
static int compare(const State *s, State *after, int node, int other)
{
	int said;

	*after = *s;
	if (!has(s->alive, other) || !reaches(s, node, other)) {
		said = s->compared[node][other] | SILENT;
	} else {
		int agree = agrees(s, node, other);
		after->records[node] = larger(s->records[node], s->records[other]);
		if (has(keepers(s, node) | keepers(s, other), other))
			after->records[other] = after->records[node];
		said = EQUAL | (s->compared[node][other] & SOUND) | (agree ? AGREED : 0);
		said |= !answers(s, other) ? FRESH : agree ? SOUND : 0;
	}
	after->compared[node][other] = said;
	if (!memcmp(after, s, sizeof *s))
		return 0;
	renew(after);
	return 1;
}

static int is_behind(const State *s, int node)
{
	return !has(s->caught_up, node) && has(keepers(s, node), node);
}

static void compares(const State *s, int node)
{
	State after;

	for (int i = 0; i < size; i++)
		if (has(s->views[node], order[i]) && compare(s, &after, node, order[i]))
			yield(&after, "n%d compares with n%d", node, order[i]);
}

static void compares_with_all(const State *s, int node)
{
	State after = *s, step;

	for (int round = 0; round < size && is_behind(&after, node); round++) {
		int i = 0;
		while (i < size && !(has(after.views[node], order[i]) && compare(&after, &step, node, order[i])))
			i++;
		if (i == size)
			break;
		after = step;
	}
	if (has(after.caught_up, node)) {
		memcpy(after.compared, s->compared, sizeof after.compared);
		yield(&after, "n%d catches up", node, 0);
	}
}

static void lets_go(const State *s, int node)
{
	unsigned own = keepers(s, node), me = 1u << node;
	int answering = 1, reached = 1;
	State after = *s;

	if (own & me || !(s->held & me || s->records[node]))
		return;
	for (int each = 0; each < size; each++)
		if (has(own, each)) {
			int there = has(s->alive, each) && reaches(s, node, each);
			reached &= there;
			answering &= there && has(s->caught_up, each);
		}
	if (s->held & me) {
		after.held &= ~me;
		if (answering)
			yield(&after, "n%d lets go", node, 0);
	} else if (reached) {
		for (int each = 0; each < size; each++)
			if (has(own, each))
				after.records[each] = larger(s->records[each], s->records[node]);
		after.records[node] = 0;
		yield(&after, "n%d gives its record away", node, 0);
	}
}

static void begins_write(const State *s, int node)
{
	State after = *s;

	for (int each = 0; each < size; each++)
		after.version = larger(after.version, s->records[each]);
	after.version++;
	after.coordinator = node;
	after.known = s->views[node] | 1u << node;
	after.writes--;
	yield(&after, "n%d begins a write", node, 0);
}

static void stores(const State *s)
{
	unsigned open = targets(s) & ~s->having & s->alive;
	State after;

	for (int i = 0; s->version && has(s->alive, s->coordinator) && i < size; i++) {
		int target = order[i];
		if (!has(open, target) || !reaches(s, s->coordinator, target))
			continue;
		after = *s;
		after.records[target] = larger(s->version, s->records[target]);
		after.having |= 1u << target;
		after.counted |= (unsigned)answers(s, target) << target;
		if (has(after.having, s->coordinator) && bits(after.counted & seats(&after)) >= MAJORITY)
			after.acknowledged = larger(after.acknowledged, s->version);
		yield(&after, "n%d stores version %d", target, s->version);
	}
	if (s->version) {
		after = *s;
		after.version = after.coordinator = after.known = after.having = after.counted = 0;
		yield(&after, "the write is over", 0, 0);
	}
}

static void fails(const State *s)
{
	for (int node = 0; s->deaths && node < size; node++) {
		State after = *s;
		if (!has(s->alive, node))
			continue;
		after.alive &= ~(1u << node);
		after.caught_up &= ~(1u << node);
		after.held &= ~(1u << node);
		after.deaths--;
		after.records[node] = 0;
		after.views[node] = 0;
		memset(after.compared[node], 0, sizeof after.compared[node]);
		yield(&after, "n%d dies", node, 0);
	}
	State after = *s;
	after.side = 0;
	if (s->side)
		yield(&after, "the network heals", 0, 0);
	else if (s->cuts)
		for (int side = 1; side < 1 << (size - 1); side++) {
			if (single && bits(side) != 1 && bits(side) != size - 1)
				continue;
			after.side = side;
			after.cuts = s->cuts - 1;
			yield(&after, "the network is cut: %x", side, 0);
		}
}

static void successors(const State *s)
{
	for (int node = 0; node < size; node++) {
		if (!has(s->alive, node))
			continue;
		learns(s, node);
		if (is_behind(s, node))
			(remembers ? compares : compares_with_all)(s, node);
		lets_go(s, node);
		if (s->writes && !s->version && has(keepers(s, node), node))
			begins_write(s, node);
	}
	stores(s);
	fails(s);
}

/* --- The search ------------------------------------------------------------------------ */

static void trace(State first)
{
	static uint64_t steps[1 << 12];
	int length = 0;

	for (uint64_t h = broke_at; h != hash(&first); h = origin(h))
		steps[length++] = h;
	/* The states themselves were not kept: they are made again along the way. */
	while (length--) {
		List before = next;
		next = (List){0};
		wanted = 0;
		/* Each successor is looked at twice: for its name, and for the state itself. */
		wanted = steps[length];
		*told = 0;
		successors(&first);
		printf("%s\n", told);
		next = before;
		wanted = 0;
		if (!length)
			break;
		/* Find the state by searching its successors again, without the memory of visited ones. */
		uint64_t *kept_seen = seen, *kept_from = from, kept_room = room, kept_count = count;
		seen = from = NULL;
		room = count = 0;
		grow();
		what_broke = NULL;
		next = (List){0};
		successors(&first);
		for (size_t i = 0; i < next.count; i++)
			if (hash(&next.states[i]) == steps[length]) {
				first = next.states[i];
				break;
			}
		free(next.states);
		free(seen);
		free(from);
		seen = kept_seen;
		from = kept_from;
		room = kept_room;
		count = kept_count;
	}
}

int main(int argc, char **argv)
{
	State first = {0};
	List now = {0};
	uint64_t most;
	int depth = 0, is_complete = 1;

	if (argc != 10)
		return 2;
	old = atoi(argv[1]);
	size = old + atoi(argv[2]);
	if (size > MAX_NODES || (int)strlen(argv[3]) != size)
		return 2;
	for (int i = 0; i < size; i++) {
		order[i] = argv[3][i] - '0';
		place[order[i]] = i;
	}
	first.deaths = atoi(argv[4]);
	first.writes = atoi(argv[5]);
	first.cuts = atoi(argv[6]);
	single = atoi(argv[7]);
	remembers = atoi(argv[8]);
	most = strtoull(argv[9], NULL, 10);
	first.alive = (1u << size) - 1;
	first.caught_up = (1u << old) - 1;
	first.acknowledged = 1;
	for (int node = 0; node < size; node++) {
		first.views[node] = ((1u << old) - 1) & ~(1u << node);
		first.records[node] = node < old;
	}
	grow();
	current = hash(&first);
	insert(current, 0);
	now.states = taken(malloc(sizeof first));
	now.states[now.count++] = first;
	while (now.count && !what_broke) {
		next = (List){0};
		for (size_t i = 0; i < now.count && !what_broke; i++) {
			if (count >= most) {
				is_complete = 0;
				break;
			}
			current = hash(&now.states[i]);
			successors(&now.states[i]);
		}
		free(now.states);
		now = next;
		if (!is_complete)
			break;
		depth += now.count > 0;
	}
	printf("%llu %d %d %s\n", (unsigned long long)count, is_complete && !what_broke, depth, what_broke ? what_broke : "");
	fflush(stdout);
	if (what_broke)
		trace(first);
	return 0;
}
