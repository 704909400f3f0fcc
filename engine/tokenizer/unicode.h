/* What the tokenizers need to know of a code point: its general category, whether it is white space
 * or of the Han script, its lower case, and what it is composed of. Pure tables; any thread.
 * Source: Unicode Character Database (made by gen_unicode.py). */
#ifndef ENGINE_TOKENIZER_UNICODE_H
#define ENGINE_TOKENIZER_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* General categories. WHITE are the six control characters with the property White_Space. */
enum uni_cat {
    UNI_CN,
    UNI_CC,
    UNI_CF,
    UNI_CO,
    UNI_CS,
    UNI_LL,
    UNI_LM,
    UNI_LO,
    UNI_LT,
    UNI_LU,
    UNI_MC,
    UNI_ME,
    UNI_MN,
    UNI_ND,
    UNI_NL,
    UNI_NO,
    UNI_PC,
    UNI_PD,
    UNI_PE,
    UNI_PF,
    UNI_PI,
    UNI_PO,
    UNI_PS,
    UNI_SC,
    UNI_SK,
    UNI_SM,
    UNI_SO,
    UNI_ZL,
    UNI_ZP,
    UNI_ZS,
    UNI_WHITE,
    UNI_CAT_END,
};

#define UNI_BIT(cat) (UINT32_C(1) << (cat))

/* Sets of categories, as \p{…} has them; SPACE is White_Space. */
#define UNI_L                                                                                      \
    (UNI_BIT(UNI_LL) | UNI_BIT(UNI_LM) | UNI_BIT(UNI_LO) | UNI_BIT(UNI_LT) | UNI_BIT(UNI_LU))
#define UNI_M (UNI_BIT(UNI_MC) | UNI_BIT(UNI_ME) | UNI_BIT(UNI_MN))
#define UNI_N (UNI_BIT(UNI_ND) | UNI_BIT(UNI_NL) | UNI_BIT(UNI_NO))
#define UNI_P                                                                                      \
    (UNI_BIT(UNI_PC) | UNI_BIT(UNI_PD) | UNI_BIT(UNI_PE) | UNI_BIT(UNI_PF) | UNI_BIT(UNI_PI) |     \
     UNI_BIT(UNI_PO) | UNI_BIT(UNI_PS))
#define UNI_S     (UNI_BIT(UNI_SC) | UNI_BIT(UNI_SK) | UNI_BIT(UNI_SM) | UNI_BIT(UNI_SO))
#define UNI_SPACE (UNI_BIT(UNI_ZL) | UNI_BIT(UNI_ZP) | UNI_BIT(UNI_ZS) | UNI_BIT(UNI_WHITE))

#define UNI_PAGES          0x1100
#define UNI_PAGE           256 /* code points */
#define UNI_DECOMPOSE_MAX  4   /* code points one decomposes to at most */
#define UNI_CLASS_HAN      32
#define UNI_CLASS_CAT_MASK 31

struct uni_pair {
    uint32_t cp;
    uint32_t to;
};

extern const uint8_t uni_page[UNI_PAGES];
extern const char uni_class_text[][UNI_PAGE + 1]; /* '@' + class */
extern const struct uni_pair uni_lower_pairs[];
extern const size_t uni_n_lower_pair;
extern const struct uni_pair uni_base_pairs[];
extern const size_t uni_n_base_pair;

/* Category in the low five bits, UNI_CLASS_HAN above; cp must be below 0x110000. */
static inline unsigned uni_class(uint32_t cp)
{
    return (unsigned)(uni_class_text[uni_page[cp >> 8]][cp & 0xff] - '@');
}

static inline uint32_t uni_bit(uint32_t cp)
{
    return UNI_BIT(uni_class(cp) & UNI_CLASS_CAT_MASK);
}

static inline bool uni_is(uint32_t cp, uint32_t set)
{
    return (uni_bit(cp) & set) != 0;
}

/* Decodes the character at valid UTF-8 *s and moves past it. */
static inline uint32_t uni_next(const char **s)
{
    const unsigned char *u = (const unsigned char *)*s;
    if (u[0] < 0x80) {
        *s += 1;
        return u[0];
    }
    if (u[0] < 0xe0) {
        *s += 2;
        return (uint32_t)(u[0] & 0x1f) << 6 | (u[1] & 0x3f);
    }
    if (u[0] < 0xf0) {
        *s += 3;
        return (uint32_t)(u[0] & 0x0f) << 12 | (uint32_t)(u[1] & 0x3f) << 6 | (u[2] & 0x3f);
    }
    *s += 4;
    return (uint32_t)(u[0] & 0x07) << 18 | (uint32_t)(u[1] & 0x3f) << 12 |
           (uint32_t)(u[2] & 0x3f) << 6 | (u[3] & 0x3f);
}

/* Length of the character that starts with byte c of valid UTF-8. */
static inline size_t uni_len(char c)
{
    unsigned char u = (unsigned char)c;
    return u < 0x80 ? 1 : u < 0xe0 ? 2 : u < 0xf0 ? 3 : 4;
}

uint32_t uni_lower(uint32_t cp); /* simple lower case, cp itself where there is none */
/* The first character of its canonical decomposition: without accents, a syllable's consonant. */
uint32_t uni_base(uint32_t cp);

#endif
