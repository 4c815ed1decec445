/*
 * load_object FILE: loads a BPF object and prints one line: what the kernel and its verifier say.
 *
 * For kernels in a machine without Python (scripts/kernels). Exit status 0: the kernel takes it.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <stdio.h>
#include <string.h>

#define LOG_STATS 4 /* errors and statistics, not each instruction */
#define SHOWN 400   /* characters at the log's end */

static char said[1 << 16];

static int print_nothing(enum libbpf_print_level level, const char *format, va_list arguments)
{
	return 0;
}

static const char *end_of_log(void)
{
	size_t length = strlen(said);

	for (char *at = said; *at; at++)
		if (*at == '\n')
			*at = ' ';
	return said + (length > SHOWN ? length - SHOWN : 0);
}

int main(int count, char **arguments)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .kernel_log_buf = said, .kernel_log_size = sizeof(said),
		    .kernel_log_level = LOG_STATS);
	struct bpf_object *object;
	int failed;

	if (count != 2)
		return 2;
	libbpf_set_print(print_nothing);
	object = bpf_object__open_file(arguments[1], &opts);
	if (!object) {
		printf("not a BPF object: %s\n", arguments[1]);
		return 2;
	}
	failed = bpf_object__load(object);
	printf("%s: %s\n", failed ? strerror(-failed) : "loaded", end_of_log());
	return failed != 0;
}
