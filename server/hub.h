/* Models from a hub that speaks Hugging Face's protocol, and the cache folder they live in:
 *
 *   CACHE/ORG/REPO/FILE          complete and verified; what is being fetched is FILE.part
 *
 * A file gets its name when its length and digest are right, by rename: nothing partial is ever
 * used. Nothing from the hub is trusted: names are checked before they become paths, lengths before
 * bytes are taken. Called by commands, one thread. */
#ifndef SERVER_HUB_H
#define SERVER_HUB_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define HUB_PART_MAX  96
#define HUB_NAME_MAX  200
#define HUB_FILES_MAX 4096

/* "hf.co/org/repo:Q4_K_M", in pieces. */
struct hub_name {
    char org[HUB_PART_MAX + 1];
    char repo[HUB_PART_MAX + 1];
    char quant[HUB_PART_MAX + 1]; /* "": the caller has no wish */
};

/* Takes hf.co/…, huggingface.co/…, with https:// or without, and org/repo alone. */
enum err_code hub_name_parse(const char *text, struct hub_name *ret_n, struct err *e);
/* A file name that may be written into a folder. */
bool hub_file_name_ok(const char *name);

/* A file of a repository. */
struct hub_file {
    char path[HUB_NAME_MAX * 2]; /* in the repository */
    const char *name;            /* last part of path */
    uint64_t n_byte;
    char sha256[65]; /* lower case, or "" */
    char git[41];    /* SHA-1 of "blob N\0" and the content, or "" */
    bool wanted;
};

struct hub_repo {
    char commit[41];
    struct hub_file *files;
    size_t n_file;
};

/* The model's description as the hub sends it. */
enum err_code hub_repo_parse(const char *json, size_t n, struct hub_repo *ret_r, struct err *e);
void hub_repo_free(struct hub_repo *r);
/* Marks the files of one model: the GGUF file of this quantisation (all parts of a split one), or
 * config, tokenizer and safetensors. Returns the index of the file to open, in *ret_folder whether
 * it is the folder that is to be opened. */
enum err_code hub_repo_choose(struct hub_repo *r, const struct hub_name *n, size_t *ret_first,
                              bool *ret_folder, struct err *e);
/* Whether a file's name says this quantisation, as a word of its own, in any case. */
bool hub_has_quant(const char *name, const char *quant);

struct hub_options {
    const char *url;       /* "https://huggingface.co" */
    const char *token;     /* or NULL */
    const char *cache_dir; /* made if need be */
    bool offline;
    bool progress; /* a bar on stderr */
};

/* Fetches what is missing; *ret_path: what to give to --model. */
enum err_code hub_pull(const struct hub_options *o, const struct hub_name *n, struct buf *ret_path,
                       struct err *e);

/* ---- transfer (hub_fetch.c) ---- */

struct hub_fetch {
    const char *url;
    const char *token;
    bool progress;
    const char *label; /* beside the bar */
};

/* The whole body, at most n_max bytes. */
enum err_code hub_fetch_text(const struct hub_fetch *f, size_t n_max, struct buf *out,
                             struct err *e);
/* Appends bytes [from, n_total) of it to fd, which is at `from`. Progress that was made stays in
 * the file when it fails. *ret_from_start: the server began anew, and so does the file. */
enum err_code hub_fetch_file(const struct hub_fetch *f, int fd, uint64_t from, uint64_t n_total,
                             struct err *e);

/* ---- cache (hub_cache.c) ---- */

struct hub_cached {
    char *name; /* "org/repo/file.gguf", or "org/repo" of a folder */
    char *path;
    uint64_t n_byte;
    time_t used;
    bool partial; /* nothing but the rest of an unfinished download */
};

struct hub_list {
    struct hub_cached *items;
    size_t n;
};

/* All of the cache, by name; a split model counts once. */
enum err_code hub_cache_list(const char *cache_dir, struct hub_list *ret_l, struct err *e);
void hub_cache_list_free(struct hub_list *l);
/* The cached model of this name: as hub_name_parse takes it, as the list prints it, or a file's
 * name with or without .gguf. */
enum err_code hub_cache_find(const char *cache_dir, const char *name, struct buf *ret_path,
                             struct err *e);
enum err_code hub_cache_remove(const char *cache_dir, const struct hub_cached *c, struct err *e);

/* From the environment: KVASIR_CACHE, else XDG_CACHE_HOME/kvasir, else ~/.cache/kvasir. False when
 * none of them is there. */
bool hub_cache_dir(struct buf *out);

#endif
