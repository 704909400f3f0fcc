#include "engine/convert/convert.h"

#include "engine/convert/hf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool convert_is_folder(const char *path)
{
    char config[4096];
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode) &&
           snprintf(config, sizeof config, "%s/config.json", path) < (int)sizeof config &&
           access(config, R_OK) == 0;
}

static enum err_code run(struct hf *h, const char *out_path, struct err *e)
{
    enum err_code rc = json_file_read(h->dir, "config.json", true, &h->config, e);
    rc = rc ? rc : json_file_read(h->dir, "tokenizer.json", true, &h->tokenizer, e);
    rc = rc ? rc : json_file_read(h->dir, "tokenizer_config.json", false, &h->tokenizer_config, e);
    rc = rc ? rc : json_file_read(h->dir, "generation_config.json", false, &h->generation, e);
    rc = rc ? rc : gguf_writer_create(&h->w, e);
    rc = rc ? rc : hf_put_config(h, e);
    rc = rc ? rc : st_open(h->dir, &h->files, e);
    rc = rc ? rc : hf_put_tensors(h, e);
    rc = rc ? rc : hf_put_tokenizer(h, e);
    if (!rc) {
        hf_put_u32(h, "vocab_size", (uint32_t)h->n_vocab);
        rc = gguf_writer_open(h->w, out_path, e);
    }
    rc = rc ? rc : hf_write_tensors(h, e);
    return rc ? rc : gguf_writer_finish(h->w, e);
}

enum err_code convert_folder(const char *dir, const char *out_path, struct err *e)
{
    struct hf *h = calloc(1, sizeof *h);
    char *clean = strdup(dir);
    if (!h || !clean) {
        free(h);
        free(clean);
        return err_set(e, ERR_NOMEM, "out of memory for a model");
    }
    for (size_t n = strlen(clean); n > 1 && clean[n - 1] == '/'; n--) {
        clean[n - 1] = 0;
    }
    h->dir = clean;
    enum err_code rc = run(h, out_path, e);
    gguf_writer_destroy(h->w);
    st_close(h->files);
    cJSON_Delete(h->config);
    cJSON_Delete(h->tokenizer);
    cJSON_Delete(h->tokenizer_config);
    cJSON_Delete(h->generation);
    free(clean);
    free(h);
    return rc;
}
