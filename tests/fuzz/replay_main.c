/* Replays every file of the folders named on the command line through a fuzz target. */
#include "fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

/* Returns false when the file cannot be read. Its bytes go into an allocation of exactly their
 * length, so that a sanitizer sees what is read beyond them. */
static int replay(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) {
        return 0;
    }
    long n = ftell(f);
    uint8_t *bytes = n >= 0 ? malloc(n ? (size_t)n : 1) : NULL;
    rewind(f);
    int ok = bytes && fread(bytes, 1, (size_t)n, f) == (size_t)n;
    (void)fclose(f);
    if (ok) {
        (void)LLVMFuzzerTestOneInput(bytes, (size_t)n);
    }
    free(bytes);
    return ok;
}

int main(int argc, char **argv)
{
    unsigned n_file = 0;
    for (int i = 1; i < argc; i++) {
        DIR *d = opendir(argv[i]);
        struct dirent *entry;
        if (!d) {
            perror(argv[i]);
            return 1;
        }
        while ((entry = readdir(d))) {
            char path[4096];
            if (entry->d_name[0] == '.') {
                continue;
            }
            (void)snprintf(path, sizeof path, "%s/%s", argv[i], entry->d_name);
            if (!replay(path)) {
                (void)fprintf(stderr, "cannot read %s\n", path);
                return 1;
            }
            n_file++;
        }
        (void)closedir(d);
    }
    printf("%u seeds replayed\n", n_file);
    return n_file ? 0 : 1;
}
