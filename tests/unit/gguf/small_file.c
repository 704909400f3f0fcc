#include "small_file.h"

#include "engine/gguf_write.h"

#include <stdlib.h>
#include <string.h>

static void put_numbers(struct gguf_writer *w)
{
    gguf_put_number(w, "k.u8", GGUF_U8, &(uint8_t){200});
    gguf_put_number(w, "k.i8", GGUF_I8, &(int8_t){-100});
    gguf_put_number(w, "k.u16", GGUF_U16, &(uint16_t){60000});
    gguf_put_number(w, "k.i16", GGUF_I16, &(int16_t){-30000});
    gguf_put_number(w, "k.i32", GGUF_I32, &(int32_t){-2000000000});
    gguf_put_number(w, "k.u64", GGUF_U64, &(uint64_t){UINT64_MAX});
    gguf_put_number(w, "k.i64", GGUF_I64, &(int64_t){INT64_MIN});
    gguf_put_number(w, "k.f64", GGUF_F64, &(double){0.1});
    gguf_put_f32(w, "k.f32", 1.5f);
    gguf_put_bool(w, "k.bool", true);
}

struct buf small_file(uint32_t part, uint32_t n_part)
{
    struct gguf_writer *w;
    struct buf out = {0};
    if (gguf_writer_create(&w, NULL)) {
        abort();
    }
    gguf_put_str(w, "general.architecture", "none");
    gguf_put_u32(w, "general.alignment", 32);
    put_numbers(w);
    static const uint16_t numbers[3] = {1, 2, 65535};
    static const uint8_t bools[2] = {1, 0};
    static const struct gguf_str strings[3] = {{"ab", 2}, {"", 0}, {"\xff\x00z", 3}};
    gguf_put_array(w, "a.u16", &(struct gguf_array){.type = GGUF_U16, .n = 3, .data = numbers});
    gguf_put_array(w, "a.bool", &(struct gguf_array){.type = GGUF_BOOL, .n = 2, .data = bools});
    gguf_put_array(w, "a.str",
                   &(struct gguf_array){.type = GGUF_STRING, .n = 3, .strings = strings});
    gguf_put_array(w, "a.none", &(struct gguf_array){.type = GGUF_F32, .n = 0, .data = numbers});
    if (n_part) {
        gguf_put_number(w, "split.no", GGUF_U16, &(uint16_t){(uint16_t)part});
        gguf_put_number(w, "split.count", GGUF_U16, &(uint16_t){(uint16_t)n_part});
        gguf_put_number(w, "split.tensors.count", GGUF_I32, &(int32_t){3 * (int32_t)n_part});
    }
    const char *names[3][2] = {{"t.a", "t.x"}, {"t.b", "t.y"}, {"t.c", "t.z"}};
    for (unsigned i = 0; i < 3; i++) {
        static const enum gguf_type types[3] = {GGUF_TYPE_F32, GGUF_TYPE_Q4_0, GGUF_TYPE_F32};
        static const uint64_t ne[3][3] = {{5}, {64, 2}, {2, 2, 2}};
        const char *name = names[i][part > 0];
        (void)gguf_put_tensor(w, (struct gguf_str){name, 3}, types[i], i + 1, ne[i]);
    }
    if (gguf_writer_header(w, &out, NULL)) {
        abort();
    }
    for (uint64_t i = 0; i < gguf_writer_data_bytes(w); i++) {
        buf_putc(&out, (char)(i * 37 + part));
    }
    gguf_writer_destroy(w);
    return out;
}
