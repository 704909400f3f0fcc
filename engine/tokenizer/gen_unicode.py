#!/usr/bin/env python3
"""Writes unicode_table.c: general categories, the Han script, lower case and what
characters are composed of, from the `regex` package (categories, scripts) and the standard library (the rest).
Run by hand when Unicode moves on; the result is committed.

    python3 engine/tokenizer/gen_unicode.py > engine/tokenizer/unicode_table.c
"""
import unicodedata

import regex

CATS = ("Cn Cc Cf Co Cs Ll Lm Lo Lt Lu Mc Me Mn Nd Nl No Pc Pd Pe Pf Pi Po Ps Sc Sk Sm So Zl Zp Zs "
        "White").split()
WHITE_CONTROLS = (0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x85)
HAN = 32
MAX = 0x110000
SURROGATE = range(0xD800, 0xE000)


def chars():
    return "".join(chr(c) if c not in SURROGATE else "\0" for c in range(MAX))


def classes():
    every = chars()
    out = bytearray(MAX)
    for i, name in enumerate(CATS[1:-1], 1):
        if name == "Cs":
            continue
        for m in regex.finditer(r"\p{%s}+" % name, every):
            out[m.start():m.end()] = bytes([i]) * (m.end() - m.start())
    for c in SURROGATE:
        out[c] = CATS.index("Cs")
    for c in WHITE_CONTROLS:
        out[c] = CATS.index("White")
    for m in regex.finditer(r"\p{Script=Han}+", every):
        for c in range(m.start(), m.end()):
            out[c] |= HAN
    return out


def c_string(page):
    return "".join(chr(0x40 + v) for v in page).replace("\\", "\\\\")


def main():
    table = classes()
    pages, index = [], []
    for p in range(MAX >> 8):
        page = bytes(table[p << 8:(p + 1) << 8])
        if page not in pages:
            pages.append(page)
        index.append(pages.index(page))
    print("/* Made by gen_unicode.py; not edited by hand. Source: the Unicode Character Database. */")
    print("/* clang-format off */")
    print('#include "engine/tokenizer/unicode.h"\n')
    print("const uint8_t uni_page[UNI_PAGES] = {")
    for i in range(0, len(index), 24):
        print("    " + " ".join("%d," % v for v in index[i:i + 24]))
    print("};\n")
    print("const char uni_class_text[][UNI_PAGE + 1] = {")
    for p, page in enumerate(pages):
        print("    /* %d */" % p)
        for i in range(0, 256, 64):
            print('    "%s"%s' % (c_string(page[i:i + 64]), "," if i == 192 else ""))
    print("};\n")
    lower = [(c, ord(chr(c).lower())) for c in range(MAX)
             if c not in SURROGATE and len(chr(c).lower()) == 1 and ord(chr(c).lower()) != c]
    print("const struct uni_pair uni_lower_pairs[] = {")
    for i in range(0, len(lower), 6):
        print("    " + " ".join("{0x%x, 0x%x}," % v for v in lower[i:i + 6]))
    print("};\nconst size_t uni_n_lower_pair = sizeof uni_lower_pairs / sizeof *uni_lower_pairs;\n")
    base = [(c, ord(unicodedata.normalize("NFD", chr(c))[0])) for c in range(MAX)
            if c not in SURROGATE and not 0xAC00 <= c <= 0xD7A3
            and unicodedata.normalize("NFD", chr(c)) != chr(c)]
    print("const struct uni_pair uni_base_pairs[] = {")
    for i in range(0, len(base), 6):
        print("    " + " ".join("{0x%x, 0x%x}," % v for v in base[i:i + 6]))
    print("};\nconst size_t uni_n_base_pair = sizeof uni_base_pairs / sizeof *uni_base_pairs;")


main()
