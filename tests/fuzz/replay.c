/* SPDX-License-Identifier: MIT */
/*
 * replay FOLDER|FILE... - gives a target each of its corpus's inputs, in any build, with any
 * compiler
 *
 * Each input is a copy of its own size, so that a sanitizer sees a byte read beyond it.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "tests/fuzz/fuzz.h"

static unsigned replay_file(const char *path)
{
    FILE *file = fopen(path, "re");
    struct stat st;
    uint8_t *bytes;

    assert(file && fstat(fileno(file), &st) == 0);
    bytes = malloc((size_t)st.st_size + 1);
    assert(bytes && fread(bytes, 1, (size_t)st.st_size, file) == (size_t)st.st_size);
    fclose(file);
    bytes = realloc(bytes, st.st_size ? (size_t)st.st_size : 1);
    assert(bytes);
    fuzz_one(bytes, (size_t)st.st_size);
    free(bytes);
    return 1;
}

static unsigned replay_folder(const char *path)
{
    struct dirent **entries;
    int n = scandir(path, &entries, NULL, alphasort);
    unsigned n_files = 0;

    assert(n >= 0);
    for (int i = 0; i < n; i++) {
        char *file;
        if (entries[i]->d_name[0] != '.') {
            assert(asprintf(&file, "%s/%s", path, entries[i]->d_name) >= 0);
            n_files += replay_file(file);
            free(file);
        }
        free(entries[i]);
    }
    free(entries);
    return n_files;
}

int main(int argc, char **argv)
{
    unsigned n = 0;
    struct stat st;

    for (int i = 1; i < argc; i++) {
        assert(stat(argv[i], &st) == 0);
        n += S_ISDIR(st.st_mode) ? replay_folder(argv[i]) : replay_file(argv[i]);
    }
    printf("1..1\n%s 1 - %u inputs of the corpus\n", n ? "ok" : "not ok", n);
    return n ? 0 : 1;
}
