/* The table behind options.h: for config/ and the tests that hold the documents against it. */
#ifndef CONFIG_OPTION_TABLE_H
#define CONFIG_OPTION_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CFG_OPTION_MAX 64

enum cfg_kind {
    CFG_KIND_STRING, /* char * */
    CFG_KIND_BOOL,   /* bool */
    CFG_KIND_NUMBER, /* uint64_t in [min, max] */
    CFG_KIND_BYTES,  /* uint64_t; 512M, 8G */
    CFG_KIND_CHOICE, /* uint64_t: which of `choices` */
};

struct cfg_option {
    const char *name;
    enum cfg_kind kind;
    size_t offset; /* in struct cfg */
    uint64_t min;
    uint64_t max;
    const char *deflt;     /* as one would write it; NULL: none */
    const char *choices;   /* "a|b|c" */
    const char *auto_word; /* a word that stands for 0, then legal below min; or NULL */
    const char *unit;      /* how a value is shown in help: FILE, N, SIZE, SECONDS */
    const char *help;
    bool list;         /* a string that may be given several times: joined by commas */
    const char *group; /* heading in help, at the first option of each group; else NULL */
};

extern const struct cfg_option cfg_options[];
extern const size_t cfg_n_option;

void cfg_env_name(const struct cfg_option *o, char *out, size_t cap);
/* "a number from 1 to 65535", "a size from 1 MiB to 8 EiB or auto", "one of a, b, c". */
void cfg_range_text(const struct cfg_option *o, char *out, size_t cap);

#endif
