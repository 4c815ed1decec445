/* What the load generators share: a clock, and the requests that they are given in a file. */
#ifndef ASKING_H
#define ASKING_H

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Nanoseconds of a clock that never goes back. */
static long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

/* A file of `number` pieces, `each` bytes long. Ends the program if it cannot be read. */
static unsigned char *load(const char *path, size_t each, size_t *number)
{
	FILE *file = fopen(path, "rb");
	unsigned char *all;
	long size;

	if (!file || fseek(file, 0, SEEK_END) < 0)
		err(1, "%s", path);
	size = ftell(file);
	rewind(file);
	all = malloc(size);
	if (!all || fread(all, 1, size, file) != (size_t)size)
		err(1, "%s", path);
	fclose(file);
	*number = size / each;
	return all;
}

#endif
