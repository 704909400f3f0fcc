#include "engine/tokenizer/pretok_names.h"

#include "engine/tokenizer/unicode.h"

/* White_Space: PCRE2's own \s takes U+180E as well. */
#define WS    "\\t-\\r\\x{85}\\p{Z}"
#define SPACE "[" WS "]"
#define SOLID "[^" WS "]"

#define ANY UINT32_MAX

static const struct split_rule gpt2 = {.form = SPLIT_GPT2};
static const struct split_rule lines = {.form = SPLIT_LINES};
static const struct split_rule cuts = {.form = SPLIT_CUTS, .letters = UNI_BIT(UNI_ND)};
static const struct split_rule threes = {.form = SPLIT_THREES, .letters = UNI_N};
static const struct split_rule groups = {.form = SPLIT_GROUPS, .letters = UNI_BIT(UNI_ND)};
static const struct split_rule llama3 = {
    .form = SPLIT_WORDS, .letters = UNI_L, .n_digit_max = 3, .contractions = true, .tail = "\r\n"};
static const struct split_rule qwen2 = {
    .form = SPLIT_WORDS, .letters = UNI_L, .n_digit_max = 1, .contractions = true, .tail = "\r\n"};
static const struct split_rule qwen35 = {.form = SPLIT_WORDS,
                                         .letters = UNI_L | UNI_M,
                                         .n_digit_max = 1,
                                         .contractions = true,
                                         .tail = "\r\n"};
static const struct split_rule many_digits = {.form = SPLIT_WORDS,
                                              .letters = UNI_L,
                                              .n_digit_max = ANY,
                                              .contractions = true,
                                              .tail = "\r\n"};
static const struct split_rule no_tail = {
    .form = SPLIT_WORDS, .letters = UNI_L, .n_digit_max = 1, .contractions = true, .tail = ""};
static const struct split_rule no_contractions = {
    .form = SPLIT_WORDS, .letters = UNI_L, .n_digit_max = 1, .tail = "\r\n"};
static const struct split_rule jais2 = {
    .form = SPLIT_BLOCKS, .letters = UNI_L, .n_digit_max = 3, .contractions = true, .tail = "\r\n"};
static const struct split_rule o200k = {
    .form = SPLIT_CASED, .n_digit_max = 3, .contractions = true, .tail = "\r\n/"};
static const struct split_rule tekken = {.form = SPLIT_CASED, .n_digit_max = 1, .tail = "\r\n/"};
static const struct split_rule youtu = {
    .form = SPLIT_CASED, .n_digit_max = 1, .contractions = true, .tail = "\r\n/"};
static const struct split_rule kimi = {
    .form = SPLIT_CASED, .n_digit_max = 3, .contractions = true, .han = true, .tail = "\r\n"};

#define RULE(r)                                                                                    \
    {                                                                                              \
        .rule = &(r)                                                                               \
    }
#define REGEX(text)                                                                                \
    {                                                                                              \
        .regex = (text)                                                                            \
    }

#define DIGIT  REGEX("\\p{N}")
#define DIGITS REGEX("\\p{N}+")

/* The letters with case, as deepseek-llm's file lists them. */
#define CASED_LETTERS                                                                              \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-"        \
    "\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}"          \
    "\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}"         \
    "\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-"           \
    "\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}"        \
    "\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-"       \
    "\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-"         \
    "\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-"        \
    "\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}"        \
    "\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}"          \
    "\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-"        \
    "\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-"         \
    "\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}"         \
    "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-"       \
    "\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-"              \
    "\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-"         \
    "\\x{118df}\\x{1e900}-\\x{1e943}"

/* Han and what else stands between U+0800 and U+D7FF, as the deepseek files have it. */
#define DEEPSEEK_CJK "[\\x{800}-\\x{9fa5}\\x{ac00}-\\x{d7ff}]+"
#define HAN_KANA     "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{30ff}]+"

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define BLANKS       SPACE "*[\\r\\n]+|" SPACE "+(?!" SOLID ")|" SPACE "+"

/* An ASCII mark glued to ASCII letters; words with their marks; punctuation and symbols. */
#define DEEPSEEK_V3_WORDS                                                                          \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"                                        \
    "|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
#define DEEPSEEK_V3 DEEPSEEK_V3_WORDS "| ?[\\p{P}\\p{S}]+[\\r\\n]*|" BLANKS

/* Words between blanks and a few marks; the parentheses and the bar are marks as well. */
#define BLOOM " ?[^(" WS "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"

#define CJK_AND_NEIGHBOURS                                                                         \
    "[\\x{4e00}-\\x{9fff}\\x{3400}-\\x{4dbf}\\x{f900}-\\x{faff}\\x{3040}-\\x{30ff}"                \
    "\\x{ff65}-\\x{ff9f}\\x{2f00}-\\x{2fdf}\\x{e40}-\\x{eff}\\x{1780}-\\x{17ff}"                   \
    "\\x{1000}-\\x{109f}\\x{aa60}-\\x{aa7f}\\x{a9e0}-\\x{a9ff}\\x{ac00}-\\x{d7af}"                 \
    "\\x{1100}-\\x{11ff}]+"

#define YOUTU_SCRIPTS                                                                              \
    "[\\x{ac00}-\\x{d7a3}\\x{3131}-\\x{318e}]+"                                                    \
    "|[\\x{ff01}\\x{2026}\\x{201c}\\x{201d}\\x{2018}\\x{2019}\\x{2014}\\x{ff1a}\\x{ff1b}"          \
    "\\x{ff0c}\\x{3001}-\\x{303f}\\x{fe30}-\\x{fe4f}]+|[\\x{3105}-\\x{312f}]+|" HAN_KANA

/* Words joined by single spaces; possessive, which changes nothing here but needs no stack. */
#define EXAONE_MOE                                                                                 \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}[\\p{L}\\p{M}]*+(?: \\p{L}[\\p{L}\\p{M}]*+)*+"      \
                 "|\\p{N}| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n/]?|" SPACE "*[\\r\\n]|" SPACE            \
                 "+(?!" SOLID ")|" SPACE "+"

/* ASCII symbols beside punctuation: what counts as punctuation to the tokenizer library. */
#define PUNCTUATION "\\p{P}$+<=>^~|`"

const struct pretok_spec pretok_specs[] = {
    {.names = "gpt-2 phi-2 jina-es jina-de gigachat jina-v1-en jina-v2-es jina-v2-de jina-v2-code "
              "a.x-4.0 mellum modern-bert roberta-bpe mpt olmo jais trillion granite-docling "
              "exaone4 ",
     .stages = {RULE(gpt2)}},
    {.names = "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano ",
     .stages = {RULE(llama3)},
     .traits = {.ignore_merges = true, .add_bos = true}},
    {.names = "dbrx smaug-bpe glm4 chatglm-bpe ", .stages = {RULE(llama3)}},
    {.names = "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2 "
              "bailingmoe bailingmoe2 llada-moe ",
     .stages = {RULE(qwen2)}},
    {.names = "qwen35 ", .stages = {RULE(qwen35)}},
    {.names = "ufakzeka ", .stages = {RULE(no_contractions)}},
    {.names = "seed-coder ", .stages = {RULE(no_tail)}},
    {.names = "minicpm5 ",
     .stages = {REGEX("\\p{N}{1,3}"), RULE(many_digits)},
     .traits = {.ignore_merges = true}},
    {.names = "laguna ", .stages = {RULE(lines), RULE(qwen2)}},
    {.names = "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2 ",
     .stages = {DIGIT, RULE(gpt2)}},
    {.names = "gpt-4o llama4 kanana2 talkie minimax-m2 ", .stages = {RULE(o200k)}},
    {.names = "granite-embed-multi-97m ",
     .stages = {RULE(o200k)},
     .traits = {.ignore_merges = true}},
    {.names = "tiny_aya cohere2moe ", .stages = {RULE(groups), RULE(o200k)}},
    {.names = "tekken ",
     .stages = {RULE(tekken)},
     .traits = {.ignore_merges = true, .add_bos = true}},
    {.names = "kimi-k2 ", .stages = {RULE(kimi)}},
    {.names = "youtu ",
     .stages = {REGEX(YOUTU_SCRIPTS), RULE(youtu)},
     .traits = {.ignore_merges = true}},
    {.names = "deepseek-llm ",
     .stages = {REGEX("[\\r\\n]"), REGEX(SPACE "?[" CASED_LETTERS "]+"),
                REGEX(SPACE "?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}"
                            "\\x{3000}-\\x{3002}]+"),
                REGEX(SPACE "+\\z"), REGEX(DEEPSEEK_CJK), DIGITS}},
    {.names = "deepseek-coder ",
     .stages = {REGEX("[\\r\\n]"), REGEX(SPACE "?\\p{L}+"), REGEX(SPACE "?\\p{P}+"),
                REGEX(DEEPSEEK_CJK), DIGIT}},
    {.names = "deepseek-v3 hunyuan-dense joyai-llm hy_v4 ",
     .stages = {REGEX("\\p{N}{1,3}"), REGEX(HAN_KANA), REGEX(DEEPSEEK_V3)}},
    {.names = "spark2_5 ",
     .stages = {REGEX("\\p{N}{1,3}"), REGEX(HAN_KANA),
                REGEX(DEEPSEEK_V3_WORDS "| ?[\\p{P}\\p{S}]+|[\\r\\n]|" SPACE "+(?!" SOLID ")|" SPACE
                                        "+"),
                DIGIT}},
    {.names = "afmoe ", .stages = {RULE(threes), REGEX(CJK_AND_NEIGHBOURS), REGEX(DEEPSEEK_V3)}},
    {.names = "falcon ",
     .stages = {REGEX("[" PUNCTUATION "]+"), RULE(gpt2), REGEX("[0-9][0-9][0-9]")}},
    {.names = "bloom poro-chat gpt3-finnish ", .stages = {REGEX(BLOOM)}},
    {.names = "viking ", .stages = {REGEX(BLOOM), DIGIT}},
    {.names = "jais-2 ", .stages = {RULE(jais2)}},
    {.names = "superbpe ", .stages = {DIGITS, RULE(cuts)}},
    {.names = "exaone-moe ", .stages = {REGEX(EXAONE_MOE)}},
    {.names = "chameleon ",
     .stages = {REGEX("<sentinel:[0-9]+>"), REGEX("IMGIMG[A-I]{1,4}Z"), REGEX("[\\t\\n]|    |  "),
                DIGIT, REGEX("[\\p{P}!-/:-@\\[-`{-~]"), RULE(gpt2)},
     .traits = {.add_bos = true}},
    {.names = "gemma4 granite-embed-multi-311m sarvam-moe ",
     .stages = {RULE(lines)},
     .traits = {.spaces = true}},
    /* Files older than the key. */
    {.names = " default ",
     .stages = {REGEX("[\\p{P}$+<=>^~|]+"), RULE(gpt2), DIGITS, REGEX("[0-9][0-9][0-9]")}},
};

const size_t pretok_n_spec = sizeof pretok_specs / sizeof *pretok_specs;
