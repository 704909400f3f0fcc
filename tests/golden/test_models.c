/* docs/models.md, made from the engine's own tables: what each architecture's reader makes of its
 * reference model's metadata, the tokenizers and the tensor types. The page must be what this
 * program prints, and every architecture must have a reference model.
 *
 *   test_models                           compares
 *   test_models --print > docs/models.md  renews the page
 */
#include "engine/arch/arch.h"
#include "engine/quant/formats.h"
#include "engine/quant/quantize.h"
#include "engine/tokenizer/pretok_names.h"
#include "tests/golden/recipe.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char head[] =
    "# Models\n"
    "What this build runs, written by `tests/golden/test_models` from the engine's own tables: CI "
    "compares, so the page is what the code does. `build/tests/golden/test_models --print` renews "
    "it.\n\n"
    "## Architectures\n"
    "One line for each reference model: a small one with random weights, whose logits (or hidden "
    "states) llama.cpp computed first. All of them match within 1e-3, on the scalar path and the "
    "best, batched and alone, cold and over cached KV; `tests/golden/tiny` holds each model's "
    "recipe and numbers. The columns say what that model makes use of: all that is tested of an "
    "architecture. Every architecture with rotary positions takes linear and YaRN scaling and "
    "frequency factors. What is not listed is refused by name.\n\n"
    "| architecture | reference | attention | positions | block | FFN | experts | state | gives "
    "|\n|---|---|---|---|---|---|---|---|---|\n";

/* ---- one model ---- */

static const struct model_layer *attention_layer(const struct model *m)
{
    for (uint32_t i = 0; i < m->n_layer; i++) {
        if (!m->layers[i].ssm) {
            return &m->layers[i];
        }
    }
    return NULL;
}

static bool has(const struct gguf *f, const char *name)
{
    char full[128];
    for (uint32_t il = 0; il < 8; il++) {
        snprintf(full, sizeof full, "blk.%u.%s", il, name);
        if (gguf_find_tensor(f, full)) {
            return true;
        }
    }
    return gguf_find_tensor(f, name) != NULL;
}

/* Appends text if it is so. */
static void add(struct buf *out, bool so, const char *text)
{
    if (so) {
        buf_printf(out, "%s%s", out->len && out->data[out->len - 1] != ' ' ? ", " : "", text);
    }
}

static void put_attention(struct buf *out, const struct model *m, const struct gguf *f)
{
    const struct model_layer *l = attention_layer(m);
    bool window = false;
    bool shared = false;
    for (uint32_t i = 0; i < m->n_layer; i++) {
        window |= m->layers[i].window > 0;
        shared |= m->layers[i].kv_layer != i;
    }
    if (!l) {
        buf_puts(out, "none");
        return;
    }
    add(out, m->kv_rank, "latent");
    add(out, !m->kv_rank && l->n_head_kv == 1 && l->n_head > 1, "one KV head");
    add(out, !m->kv_rank && l->n_head_kv > 1 && l->n_head > l->n_head_kv, "grouped KV heads");
    add(out, !m->kv_rank && l->n_head == l->n_head_kv, "a KV head for each");
    add(out, window, "windows");
    add(out, shared, "shared KV");
    add(out, m->qk_norm != MODEL_QK_NORM_NONE || has(f, "attn_q_norm.weight"), "Q and K norms");
    add(out, has(f, "attn_q.bias") || has(f, "attn_qkv.bias"), "biases");
    add(out, has(f, "attn_sinks.weight"), "sinks");
    add(out, m->attn_softcap > 0, "capped scores");
    add(out, m->attn_clamp > 0, "clamped");
    add(out, m->attn_temp_scale > 0, "temperature by position");
    add(out, m->q_gated, "gated");
    add(out, m->encoder, "both ways");
}

static void put_positions(struct buf *out, const struct model *m, const struct gguf *f)
{
    bool bare = false;
    bool turns = false;
    bool partial = false;
    for (uint32_t i = 0; i < m->n_layer; i++) {
        const struct model_layer *l = &m->layers[i];
        uint32_t n_rot = l->rope >= 0 ? m->rope_params[l->rope].n_rot : 0;
        turns |= !l->ssm && n_rot;
        bare |= !l->ssm && !n_rot;
        partial |= !l->ssm && n_rot && n_rot < l->d_k && !m->kv_rank;
    }
    const struct rope_params *p = &m->rope_params[0];
    add(out, m->learned_positions, "learned");
    add(out, m->alibi_bias_max > 0, "ALiBi");
    add(out, turns, p->pairs == ROPE_PAIRS_HALVES ? "rotary halves" : "rotary pairs");
    add(out, partial, "part of a head");
    add(out, turns && m->n_rope > 1, "two rotations");
    add(out, turns && p->scaling == ROPE_SCALING_LINEAR && p->factor > 1, "linear scaling");
    add(out, turns && p->scaling == ROPE_SCALING_YARN, "YaRN");
    add(out, turns && has(f, "rope_freqs.weight"), "frequency factors");
    add(out, turns && has(f, "rope_factors_long.weight"), "LongRoPE");
    add(out, turns && bare, "some layers without");
    add(out, !out->len, "none");
}

static void put_block(struct buf *out, const struct model *m)
{
    add(out, true, m->layernorm ? "LayerNorm" : "RMSNorm");
    add(out, m->pre_norm, "before");
    add(out, m->post_norm, "after");
    add(out, m->sum_norm, "on sums");
    add(out, m->parallel, "parallel");
    add(out, m->embed_scale != 1, "scaled embeddings");
    add(out, m->residual_scale != 1, "scaled residual");
    add(out, m->n_embd_layer > 0, "inputs of layers");
}

static void put_ffn(struct buf *out, const struct model *m)
{
    static const char *const gated[] = {"SwiGLU", "GeGLU", "ReGLU", "clamped SwiGLU"};
    static const char *const plain[] = {"SiLU", "GELU", "ReLU²", "clamped SiLU"};
    add(out, true, m->no_ffn ? "none" : m->ffn_gated ? gated[m->act] : plain[m->act]);
    add(out, m->gate_up_fused, "fused");
}

static void put_experts(struct buf *out, const struct model *m)
{
    static const char *const gating[] = {"softmax", "sigmoid", "softmax of the chosen"};
    if (m->n_expert == 0) {
        buf_puts(out, "none");
        return;
    }
    buf_printf(out, "%u of %u", m->n_expert_used, m->n_expert);
    add(out, true, gating[m->gating]);
    add(out, m->n_expert_group > 1, "groups");
    add(out, m->n_ff_shared > 0, "shared expert");
    add(out, !m->layers[0].is_moe, "dense layers first");
}

static void put_state(struct buf *out, const struct model *m)
{
    static const char *const kinds[] = {"Mamba", "Mamba 2", "short convolution", "gated delta net"};
    uint32_t n = 0;
    const char *kind = NULL;
    for (uint32_t i = 0; i < m->n_layer; i++) {
        const struct model_ssm *a = m->layers[i].ssm;
        n += a != NULL;
        kind = a ? kinds[a->kind] : kind;
    }
    buf_puts(out, kind ? kind : "none");
    if (kind) {
        buf_puts(out, n == m->n_layer ? ", all layers" : ", some layers");
    }
}

static void put_result(struct buf *out, const struct model *m)
{
    static const char *const pooling[] = {"hidden states", "embedding: mean", "embedding: first",
                                          "embedding: last"};
    add(out, true, m->encoder ? pooling[m->pooling] : "logits");
    add(out, m->logit_scale != 1, "scaled");
    add(out, m->final_softcap > 0, "capped");
}

static void put_cell(struct buf *row, struct buf *cell)
{
    buf_printf(row, " %s |", buf_str(cell));
    buf_clear(cell);
    if (cell->data) {
        cell->data[0] = 0;
    }
}

static void put_row(struct buf *out, const char *name, const struct model *m, const struct gguf *f)
{
    struct buf cell = {0};
    buf_printf(out, "| %s | %s |", m->arch->name, name);
    put_attention(&cell, m, f);
    put_cell(out, &cell);
    put_positions(&cell, m, f);
    put_cell(out, &cell);
    put_block(&cell, m);
    put_cell(out, &cell);
    put_ffn(&cell, m);
    put_cell(out, &cell);
    put_experts(&cell, m);
    put_cell(out, &cell);
    put_state(&cell, m);
    put_cell(out, &cell);
    put_result(&cell, m);
    put_cell(out, &cell);
    buf_putc(out, '\n');
    buf_free(&cell);
}

/* ---- all ---- */

struct reference {
    char name[64];
    struct gguf *file;
    struct model *model;
};

static bool open_reference(const char *dir, const char *file, struct reference *ref)
{
    char path[1024];
    char model[] = "/tmp/kvasir-models-XXXXXX";
    struct recipe r;
    struct err e = {.msg = "cannot be built"};
    snprintf(path, sizeof path, "%s/%s", dir, file);
    snprintf(ref->name, sizeof ref->name, "%.*s", (int)(strlen(file) - 4), file);
    int fd = mkstemp(model);
    bool ok = fd >= 0 && recipe_read(path, &r);
    if (ok) {
        ok = recipe_build(&r, GGUF_TYPE_F32, 0, model) && !gguf_open(model, &ref->file, &e) &&
             !model_read_params(ref->file, 0, &ref->model, &e);
        recipe_free(&r);
    }
    if (fd >= 0) {
        close(fd);
        unlink(model);
    }
    if (!ok) {
        fprintf(stderr, "%s: %s\n", path, e.msg);
    }
    return ok;
}

static int is_recipe(const struct dirent *d)
{
    const char *end = strstr(d->d_name, ".txt");
    return end && end[4] == 0 && strcmp(d->d_name, "quant.txt") != 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static bool put_architectures(struct buf *out, const char *dir)
{
    struct dirent **list = NULL;
    int n = scandir(dir, &list, is_recipe, by_name);
    struct reference *refs = calloc((size_t)(n > 0 ? n : 1), sizeof *refs);
    bool ok = n > 0;
    for (int i = 0; i < n; i++) {
        ok = open_reference(dir, list[i]->d_name, &refs[i]) && ok;
        free(list[i]);
    }
    const struct arch *a;
    for (uint32_t at = 0; ok && (a = arch_at(at)); at++) {
        bool found = false;
        for (int i = 0; i < n; i++) {
            if (refs[i].model->arch == a) {
                put_row(out, refs[i].name, refs[i].model, refs[i].file);
                found = true;
            }
        }
        if (!found) {
            fprintf(stderr, "architecture %s has no reference in %s\n", a->name, dir);
            ok = false;
        }
    }
    for (int i = 0; i < n; i++) {
        model_destroy(refs[i].model);
        gguf_close(refs[i].file);
    }
    free(refs);
    free(list);
    return ok;
}

static void put_tokenizers(struct buf *out)
{
    buf_puts(out,
             "\n## Tokenizers\n`tokenizer.ggml.model`: `llama` (SentencePiece BPE), `gpt2` and "
             "`gemma4` (byte-level BPE), `bert` (WordPiece), `t5` (Unigram), `no_vocab` and "
             "`none`. `tokenizer.ggml.pre` of BPE, names in one line cut text the same "
             "way:\n\n");
    for (size_t i = 0; i < pretok_n_spec; i++) {
        const char *s = pretok_specs[i].names;
        buf_puts(out, "-");
        for (s += strspn(s, " "); *s; s += strspn(s, " ")) {
            size_t n = strcspn(s, " ");
            buf_printf(out, " `%.*s`", (int)n, s);
            s += n;
        }
        buf_puts(out, pretok_specs[i].names[0] == ' ' ? " (and no name at all)\n" : "\n");
    }
}

static void put_types(struct buf *out)
{
    buf_puts(out, "\n## Tensor types\n| type | bits a weight | runs | `kvasir quantize` makes it "
                  "|\n|---|---|---|---|\n");
    for (uint32_t type = 0; type < GGUF_TYPE_END; type++) {
        const struct quant_format *f = quant_format_of(type);
        bool integer = f && f->name[0] == 'I' && f->name[1] != 'Q';
        if (f && !integer && type != GGUF_TYPE_F64 && type != GGUF_TYPE_Q8_1 &&
            type != GGUF_TYPE_Q8_K) {
            buf_printf(out, "| %s | %.4g | %s | %s |\n", f->name,
                       8.0 * f->n_block_byte / f->n_block_elem,
                       f->dequant ? "yes" : "refused by name",
                       quant_can_quantize((enum gguf_type)type) ? "yes" : "no");
        }
    }
}

static bool same_as_page(const char *path, const struct buf *want)
{
    struct buf got = {0};
    char chunk[4096];
    size_t n;
    FILE *f = fopen(path, "r");
    while (f && (n = fread(chunk, 1, sizeof chunk, f)) > 0) {
        buf_append(&got, chunk, n);
    }
    if (f) {
        fclose(f);
    }
    bool ok = got.len == want->len && memcmp(buf_str(&got), buf_str(want), got.len) == 0;
    if (!ok) {
        fprintf(stderr, "%s is not what the engine does; renew it with test_models --print\n",
                path);
    }
    buf_free(&got);
    return ok;
}

int main(int argc, char **argv)
{
    const char *source = getenv("KVASIR_SOURCE") ? getenv("KVASIR_SOURCE") : ".";
    char path[512];
    struct buf page = {0};
    snprintf(path, sizeof path, "%s/tests/golden/tiny", source);
    buf_puts(&page, head);
    bool ok = put_architectures(&page, path);
    put_tokenizers(&page);
    put_types(&page);
    snprintf(path, sizeof path, "%s/docs/models.md", source);
    if (argc > 1 && strcmp(argv[1], "--print") == 0) {
        fputs(buf_str(&page), stdout);
    } else {
        ok = ok && same_as_page(path, &page);
    }
    buf_free(&page);
    return !ok;
}
