"""Random templates over random contexts, rendered by our engine and by Jinja2 as Hugging Face sets
it up: the same bytes, or a refusal from both.

Left out on purpose: methods of escaped text (it stays escaped in Jinja2), and leaving a captured
block by break.

usage: test_differential.py RENDER_LINES [--cases N] [--seed N]
Exit 0 the same, 1 not, 77 Jinja2 is not installed.
"""

import argparse
import datetime
import json
import random
import subprocess
import sys

try:
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
except ImportError:
    print("skipped: python3-jinja2 is not installed")
    sys.exit(77)

NOW = datetime.datetime(2026, 7, 26, 9, 30, 0)
SHOWN = 12


# ---- the reference


class Generation(Extension):
    """{% generation %}…{% endgeneration %} marks assistant text and renders its body."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def make_env():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


# ---- templates

WORDS = ["user", "assistant", "system", "tool", "a", "Bb", "x y", " lead", "trail ", "", "ünï",
         "日本", "1", "42", "-7", "2.5", "a,b,c", "line\nbreak", "tab\t!", "<b>&'\"", "a-b_c",
         "hello world", "HELLO", "<think>x</think>y", "{{", "%}", "\\n", "é"]
NAMES = ["s", "t", "n", "k", "f", "b", "l", "w", "d", "m", "e", "z", "nope"]
TEXTS = ["x", " ", "\n", "  \n", "text", "\n\n", "  indent", "a b", "<|im|>", "\t", ".", "ü",
         "'", "\"", "\n  ", "-", "- ", "  ", "\n", "word", "é", "?", "!\n", "{ ", "} ", "# ", "% "]
MARKS = ["{", "}", "#", "%", "{-", "-}"]


class Make:
    def __init__(self, seed):
        self.r = random.Random(seed)
        self.loops = 0
        self.macros = []
        self.spaces = []
        self.names = []
        self.depth = 0
        self.control = False  # break and continue may stand here

    def pick(self, *options):
        return self.r.choice(options)

    def chance(self, p):
        return self.r.random() < p

    # expressions by the kind they have; now and then another kind, so that refusals are met

    def expr(self, kind, deep=3):
        if self.chance(0.015):
            kind = self.pick("str", "int", "float", "bool", "list", "map", "any")
        if kind == "any":
            kind = self.pick("str", "str", "int", "float", "bool", "list", "map", "none")
        if deep <= 0:
            return self.leaf(kind)
        return getattr(self, kind)(deep - 1)

    def leaf(self, kind):
        if kind == "str":
            return self.pick("s", "t", self.literal(), self.literal(), "e.role", "m.name", *self.names[:3])
        if kind == "int":
            return self.pick("n", "k", str(self.r.randint(-9, 99)), "0", "1", "2")
        if kind == "float":
            return self.pick("f", "1.5", "-0.25", "2.0", "1e3", "0.1")
        if kind == "bool":
            return self.pick("b", "true", "false", "True", "False")
        if kind == "list":
            return self.pick("l", "w", "d", "[]", "[1, 2, 3]", "['a', 'b']", "(1, 'x')", "(n,)")
        if kind == "map":
            return self.pick("m", "e", "{}", "{'a': 1}", "{'k': 'v', 'n': none}")
        return self.pick("none", "z", *self.names[:2], "nope", "None", "m.missing", "loop.index" if self.loops
                         else "nope")

    def literal(self):
        word = self.r.choice(WORDS)
        quote = "'" if self.chance(0.7) else '"'
        word = word.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
        return quote + word.replace(quote, "\\" + quote) + quote

    def none(self, deep):
        return self.leaf("none")

    def args(self, *kinds):
        return ", ".join(self.expr(k, 1) for k in kinds)

    def str(self, deep):
        e = self.expr
        r = self.r.randrange(34)
        s = e("str", deep)
        if r < 4:
            return self.leaf("str")
        if r == 4:
            return f"({s} + {e('str', deep)})"
        if r == 5:
            return f"({s} ~ {e('any', deep)} ~ {e('any', 1)})"
        if r == 6:
            return f"({s} * {self.r.randint(-1, 3)})"
        if r == 7:
            return f"({e('any', deep)} | string)"
        if r == 8:
            return f"({e(self.pick('list', 'map', 'any'), deep)} | tojson{self.tojson_args()})"
        if r == 9:
            return f"({e('list', deep)} | join({self.pick('', self.literal(), self.literal())}))"
        if r == 10:
            return f"({s} | {self.pick('upper', 'lower', 'title', 'capitalize', 'trim')})"
        if r == 11:
            return f"({s} | replace({self.args('str', 'str')}{self.pick('', ', 1')}))"
        if r == 12:
            return f"({s} | default({self.args('str')}{self.pick('', ', true')}))"
        if r == 13:
            return f"({s} | indent({self.pick('', '2', '2, true', 'first=true', '4, blank=true')}))"
        if r == 14:
            return f"({s} | urlencode)"
        if r == 15:
            return f"({s} | {self.pick('first', 'last', 'reverse')})"
        if r == 16:
            return f'''({s} | truncate({self.pick('5', '3, true', '7, false, ".."', '9, true, "", 0')}))'''
        if r == 17:
            return f"({e('str', deep)} if {e('bool', deep)} else {e('str', deep)})"
        if r == 18:
            return f"{s}.{self.pick('upper', 'lower', 'title', 'capitalize', 'swapcase')}()"
        if r == 19:
            return f"{s}.{self.pick('strip', 'lstrip', 'rstrip')}({self.pick('', self.literal())})"
        if r == 20:
            return f"{s}.replace({self.args('str', 'str')}{self.pick('', ', 1')})"
        if r == 21:
            return f"{self.pick('s', 't', 'm.name')}[{self.slice()}]"
        if r == 22:
            return f"{s}[{self.r.randint(-4, 4)}]"
        if r == 23:
            return f"{s}.{self.pick('removeprefix', 'removesuffix')}({self.literal()})"
        if r == 24:
            return f"{s}.{self.pick('ljust', 'rjust', 'center')}({self.r.randint(0, 9)}" \
                   f'''{self.pick('', ', "*"')})'''
        if r == 25:
            return f"({s}.{self.pick('partition', 'rpartition')}({self.literal()})[{self.r.randint(0, 2)}])"
        if r == 26:
            return f"{self.literal()}.join({e('list', deep)})"
        if r == 27:
            return f"{s}.zfill({self.r.randint(0, 6)})"
        if r == 28:
            return f'''({self.pick('"%s"', '"%5s|"', '"%-4s|%s"', '"%s!"', '"%d"', '"%05.2f"', '"%x"', '"%r"')} % {self.pick(e('int', 1), e('str', 1), '(' + e('int', 1) + ', ' + e('str', 1) + ')')})'''
        if r == 29:
            return f'''{self.pick('"{}"', '"{0}-{1}"', '"{:>5}"', '"{:.2f}"', '"{a}"', '"{{}}{}"')}.format({self.pick(e('str', 1), e('int', 1), e('float', 1), e('int', 1) + ', ' + e('str', 1), 'a=' + e('any', 1))})'''
        if r == 30:
            return f'''({self.pick('"%s-%s"', '"%s"', '"%d"')} | format({self.args('any', 'any')}))'''
        if r == 31:
            return f'''(strftime_now({self.pick('"%Y-%m-%d"', '"%d %B %Y"', '"%b %e"', '"%H:%M:%S"', '"%A %j"', '"%I%p %y %%"')}))'''
        if r == 32 and self.loops:
            return f"loop.cycle({self.args('str', 'str')})"
        return self.call(deep) if self.macros else self.leaf("str")

    def tojson_args(self):
        return self.pick("", "", "", "(indent=2)", "(ensure_ascii=true)", "(sort_keys=true)",
                         "(separators=(',', ':'))", "(indent=4, sort_keys=True)", "(indent=0)")

    def slice(self):
        part = lambda: self.pick("", str(self.r.randint(-4, 4)))
        return part() + ":" + part() + self.pick("", "", ":" + self.pick("", "1", "2", "-1", "-2"))

    def int(self, deep):
        e = self.expr
        r = self.r.randrange(20)
        if r < 4:
            return self.leaf("int")
        if r < 8:
            return f"({e('int', deep)} {self.pick('+', '-', '*', '//', '%')} {e('int', deep)})"
        if r == 8:
            return f"(-{e('int', deep)})"
        if r == 9:
            return f"({e(self.pick('list', 'str', 'map'), deep)} | {self.pick('length', 'count')})"
        if r == 10:
            return f"({e(self.pick('str', 'float', 'int', 'bool'), deep)} | int{self.pick('', '(3)', '(default=-1)', '(0, 16)')})"
        if r == 11:
            return f"({e('int', deep)} | abs)"
        if r == 12:
            return f"(d | {self.pick('sum', 'max', 'min', 'first', 'last')})"
        if r == 13:
            return f"{e('str', deep)}.{self.pick('find', 'rfind', 'count', 'find', 'count', 'index')}({self.literal()})"
        if r == 14:
            return f"({e('int', deep)} ** {self.r.randint(0, 3)})"
        if r == 15 and self.loops:
            return "loop." + self.pick("index", "index0", "revindex", "revindex0", "length",
                                       "depth", "depth0")
        if r == 16:
            return f"({e('str', deep)} | wordcount)"
        if r == 17:
            return f"{e('list', deep)}.{self.pick('index', 'count', 'count')}({e('any', 1)})"
        if r == 18 and self.spaces:
            return self.r.choice(self.spaces) + ".v"
        return f"({e('int', deep)} if {e('bool', deep)} else {e('int', deep)})"

    def float(self, deep):
        e = self.expr
        r = self.r.randrange(7)
        if r < 2:
            return self.leaf("float")
        if r == 2:
            return f"({e('float', deep)} {self.pick('+', '-', '*', '/', '//', '%')} {e('float', deep)})"
        if r == 3:
            return f"({e('int', deep)} / {e('int', deep)})"
        if r == 4:
            return f"({e(self.pick('str', 'int', 'float'), deep)} | float{self.pick('', '(1.5)')})"
        if r == 5:
            return f'''({e('float', deep)} | round{self.pick('', '(1)', '(2, "floor")', '(1, "ceil")', '(0)')})'''
        return f"({e('float', deep)} | abs)"

    def bool(self, deep):
        e = self.expr
        r = self.r.randrange(15)
        if r < 2:
            return self.leaf("bool")
        if r < 4:
            kind = self.pick("str", "int", "float", "int", "any")
            return f"({e(kind, deep)} {self.pick('==', '!=', '<', '>', '<=', '>=')} {e(kind, deep)})"
        if r == 4:
            return f"({e('any', deep)} {self.pick('in', 'not in')} {e(self.pick('list', 'map'), deep)})"
        if r == 5:
            return f"({e('str', deep)} {self.pick('in', 'not in')} {e('str', deep)})"
        if r == 6:
            return f"(not {e('any', deep)})"
        if r == 7:
            return f"({e('any', deep)} {self.pick('and', 'or')} {e('any', deep)})"
        if r < 10:
            return f"({e('any', deep)} is {self.pick('', 'not ')}{self.test()})"
        if r == 10:
            return f"{e('str', deep)}.{self.pick('startswith', 'endswith')}({self.pick(self.literal(), '(' + self.literal() + ', ' + self.literal() + ')')})"
        if r == 11:
            return f"{e('str', deep)}.{self.pick('isdigit', 'isalpha', 'isalnum', 'isspace', 'isupper', 'islower', 'istitle', 'isnumeric', 'isdecimal', 'isascii')}()"
        if r == 12:
            return f"({e('int', deep)} < {e('int', deep)} <= {e('int', deep)})"
        if r == 13 and self.loops:
            return "loop." + self.pick("first", "last", f"changed({self.expr('any', 1)})")
        return f"({self.r.choice(NAMES)} is defined)"

    def test(self):
        return self.pick("defined", "undefined", "none", "string", "number", "mapping", "iterable",
                         "sequence", "boolean", "true", "false", "integer", "float", "callable",
                         "odd", "even", "divisibleby(2)", "divisibleby 3", "eq(1)", "equalto('a')",
                         "ne('x')", "in([1, 'a'])", "in('abc')", "lower", "upper", "gt(1)", "lt 5",
                         "sameas(none)", "sameas true", "ge(2)", "escaped", "le 3", "filter", "test")

    def list(self, deep):
        e = self.expr
        l = e("list", deep)
        r = self.r.randrange(27)
        if r < 3:
            return self.leaf("list")
        if r == 3:
            return "[" + ", ".join(e("any", deep) for _ in range(self.r.randint(0, 3))) + "]"
        if r == 4:
            return f"{self.pick('l', 'w', 'd', 'msgs')}[{self.slice()}]"
        if r == 5:
            return f"({l} + {e('list', deep)})"
        if r == 6:
            return f"(range({self.pick('3', '1, 4', '5, 0, -2', 'n', '0')}) | list)"
        if r == 7:
            return f"{e('str', deep)}.split({self.pick('', self.literal(), repr(',') + ', 1')})"
        if r == 8:
            return f"({l} | {self.pick('reverse', 'unique', 'sort', 'list')} | list)"
        if r == 9:
            return f'''({l} | {self.pick('select', 'reject')}{self.pick('', '("defined")', '("string")', '("number")', '("odd")', '("in", [1, "a"])')} | list)'''
        if r == 10:
            return f'''(msgs | {self.pick('selectattr', 'rejectattr')}({self.pick('"role"', '"role", "equalto", "user"', '"content", "string"', '"n", "gt", 1', '"nope"', '"n", "defined"')}) | list)'''
        if r == 11:
            return f'''(msgs | map(attribute={self.pick('"role"', '"n"', '"sub.k"', '"nope", default="?"', '"content"')}) | list)'''
        if r == 12:
            return f'''({l} | map({self.pick('"upper"', '"string"', '"length"', '"int"', '"trim"', '"default", "x"', '"tojson"')}) | list)'''
        if r == 13:
            return f"({e('map', deep)} | {self.pick('items', 'dictsort', 'list')} | list)"
        if r == 14:
            return f"({e('map', deep)}.{self.pick('items', 'keys', 'values')}() | list)"
        if r == 15:
            return f'''(msgs | sort(attribute={self.pick('"role"', '"n"', '"n,role"')}{self.pick('', ', reverse=true')}) | map(attribute='n') | list)'''
        if r == 16:
            return f'''({l} | {self.pick('batch(2)', 'slice(2)', 'batch(3, "-")', 'slice(3, 0)')} | list)'''
        if r == 17:
            return f'''(msgs | groupby({self.pick('"role"', '"n"')}) | map('first') | list)'''
        if r == 18:
            return f"({e('str', deep)} | list)"
        if r == 19:
            return f"{e('str', deep)}.splitlines({self.pick('', 'true')})"
        if r == 20:
            return f"({l} * {self.r.randint(0, 2)})"
        if r == 21:
            return f"({l} if {e('bool', deep)} else {e('list', deep)})"
        if r == 22:
            return f"({l} | default([]))"
        if r == 23:
            return f"(w | sort({self.pick('', 'reverse=true', 'case_sensitive=true', 'true, true')}))"
        if r == 24:
            return f"(w | unique({self.pick('', 'true')}) | list)"
        if r == 25:
            return f"{e('str', deep)}.rsplit({self.literal()}, 1)"
        return "(" + ", ".join(e("any", deep) for _ in range(self.r.randint(2, 3))) + ")"

    def map(self, deep):
        e = self.expr
        r = self.r.randrange(7)
        if r < 3:
            return self.leaf("map")
        if r == 3:
            key = lambda: self.pick(self.literal(), self.literal(), "1", "none", "s")
            return "{" + ", ".join(f"{key()}: {e('any', deep)}"
                                   for _ in range(self.r.randint(0, 3))) + "}"
        if r == 4:
            return f"dict(a={e('any', deep)}, b={e('any', deep)})"
        if r == 5:
            return self.pick("(msgs | first)", "msgs[-1]", "msgs[0]", "(m.sub)", "m['sub']",
                             "(m | default({}))", "m.copy()", "dict(m, q=1)")
        return f"({e('map', deep)} if {e('bool', deep)} else {e('map', deep)})"

    def call(self, deep):
        name, n = self.r.choice(self.macros)
        n_given = self.r.randint(0, n) if self.chance(0.3) else n
        given = [self.expr("any", 1) for _ in range(n_given)]
        if self.chance(0.2):
            given.append("p0=" + self.expr("any", 1))
        return f"{name}({', '.join(given)})"

    # statements

    def tag(self, inside):
        left = self.pick("{%", "{%", "{%-", "{%-", "{%+")
        right = self.pick("%}", "%}", "-%}", "-%}", "+%}")
        return f"{left} {inside} {right}"

    def text(self):
        marks = self.r.choice(MARKS) if self.chance(0.01) else ""
        return "".join(self.r.choice(TEXTS) for _ in range(self.r.randint(0, 3))) + marks

    def print(self):
        left, right = self.pick("{{", "{{", "{{-"), self.pick("}}", "}}", "-}}")
        kind = self.pick("str", "str", "any", "int", "float", "bool", "list", "map")
        expr = self.expr(kind)
        if kind == "str" and self.chance(0.05):
            expr = f"({expr}) | {self.pick('e', 'escape', 'safe', 'forceescape')}"
        elif self.chance(0.08):
            expr += " if " + self.expr("bool", 1)  # without else: nothing
        return f"{left} {expr} {right}"

    def body(self, n=3):
        self.depth += 1
        out = self.text()
        for _ in range(self.r.randint(1, n)):
            out += self.statement() + self.text()
        self.depth -= 1
        return out

    def statement(self):
        if self.depth > 3 or self.chance(0.35):
            return self.print()
        return getattr(self, "st_" + self.pick(
            "if", "if", "for", "for", "for", "set", "set", "set_block", "macro", "call", "filter",
            "with", "comment", "raw", "generation", "namespace", "loop_control", "items",
            "recursive", "raise"))()

    def st_if(self):
        out = self.tag("if " + self.expr("any")) + self.body(2)
        if self.chance(0.3):
            out += self.tag("elif " + self.expr("bool")) + self.body(1)
        if self.chance(0.5):
            out += self.tag("else") + self.body(1)
        return out + self.tag("endif")

    def inner_loop(self):
        control, self.control = self.control, True
        self.loops += 1
        out = self.body(3)
        self.loops -= 1
        self.control = control
        return out

    def captured(self, n):
        """A body whose output is taken; leaving it by break is Jinja2's own riddle."""
        control, self.control = self.control, False
        out = self.body(n)
        self.control = control
        return out

    def st_for(self):
        name = self.pick("i", "e", "n", "s")
        over = self.pick(self.expr("list"), self.expr("list"), "msgs", "msgs", "d",
                         self.expr("any"))
        where = f" if {self.expr('bool', 2)}" if self.chance(0.2) else ""
        out = self.tag(f"for {name} in {over}{where}") + self.inner_loop()
        if self.chance(0.25):
            out += self.tag("else") + self.body(1)
        return out + self.tag("endfor")

    def st_items(self):
        over = self.pick("m.items()", "m|items", "m|dictsort", "e.items()", "[(1, 2), ('a', 'b')]",
                         "msgs|groupby('role')", self.expr("map", 1) + ".items()")
        pair = self.pick("k, v", "k, e", "(s, t)")
        return self.tag(f"for {pair} in {over}") + self.inner_loop() + self.tag("endfor")

    def st_recursive(self):
        return self.tag("for i in tree recursive") + "{{ i.v }}{{ loop.depth }}" + self.text() + \
            self.tag("if i.c") + "[{{ loop(i.c) }}]" + self.tag("endif") + self.tag("endfor")

    def st_loop_control(self):
        if not self.control:
            return self.print()
        return self.tag("if " + self.expr("bool", 1)) + self.tag(self.pick("break", "continue")) \
            + self.tag("endif")

    def new_name(self):
        """What is set has a name of its own: Jinja2 hides a context's variable from inner blocks
        where its name is set later on the outside, and we do not."""
        self.names.append("v%d" % len(self.names))
        return self.names[-1]

    def st_set(self):
        name = self.new_name()
        if self.chance(0.15):
            return self.tag(f"set {name}, {self.new_name()} = {self.pick('(1, 2)', self.expr('list', 1))}")
        return self.tag(f"set {name} = {self.expr('any')}")

    def st_set_block(self):
        flt = self.pick("", "", " | upper", " | trim", " | length")
        return self.tag(f"set {self.new_name()}{flt}") + self.captured(2) + self.tag("endset")

    def st_namespace(self):
        if self.spaces and self.chance(0.6):
            return self.tag(f"set {self.r.choice(self.spaces)}.v = {self.expr('int')}")
        name = "ns%d" % len(self.spaces)
        if self.depth == 1:
            self.spaces.append(name)
        return self.tag(f"set {name} = namespace(v={self.expr('int')}, w=1)")

    def st_macro(self):
        name = "mac%d" % len(self.macros)
        n = self.r.randint(0, 2)
        params = ", ".join(f"p{i}" + (f"={self.expr('any', 1)}" if i or self.chance(0.4) else "")
                           for i in range(n))
        loops, self.loops = self.loops, 0
        body = self.captured(2) + self.pick("", "{{ p0 }}", "{{ varargs }}",
                                        "{{ caller() if caller else '' }}", "{{ p1 is defined }}")
        self.loops = loops
        if self.depth == 1:
            self.macros.append((name, n))
        return self.tag(f"macro {name}({params})") + body + self.tag("endmacro")

    def st_call(self):
        if not self.macros:
            return self.print()
        return self.tag("call " + self.call(1)) + self.captured(1) + self.tag("endcall")

    def st_filter(self):
        flt = self.pick("upper", "trim", "indent(2)", "replace('a', 'b')", "length", "lower|title")
        return self.tag("filter " + flt) + self.captured(2) + self.tag("endfilter")

    def st_with(self):
        return self.tag(f"with {self.pick('s', 'q')} = {self.expr('any', 1)}") + self.body(2) + \
            self.tag("endwith")

    def st_comment(self):
        return self.pick("{# note #}", "{#- note -#}", "{# a\nb #}\n", "  {# x #}  \n",
                         "{#+ n +#}")

    def st_raw(self):
        return self.tag("raw") + self.pick("{{ x }}", "{% if %}", " raw \n") + self.tag("endraw")

    def st_generation(self):
        return self.tag("generation") + self.captured(1) + self.tag("endgeneration")

    def st_raise(self):
        return self.tag("if " + self.expr("bool", 1)) + \
            "{{ raise_exception(" + self.literal() + ") }}" + self.tag("endif")

    # contexts

    def value(self, deep=2):
        r = self.r.randrange(9)
        if r < 3 or deep <= 0:
            return self.r.choice(WORDS)
        if r < 5:
            return self.r.randint(-20, 200)
        if r == 5:
            return self.r.choice([0.5, -1.25, 3.14159, 1e-7, 1.5e20, 0.1])
        if r == 6:
            return self.r.choice([True, False, None])
        if r == 7:
            return [self.value(deep - 1) for _ in range(self.r.randint(0, 3))]
        return {self.r.choice(WORDS): self.value(deep - 1) for _ in range(self.r.randint(0, 3))}

    def message(self):
        out = {"role": self.pick("user", "assistant", "tool"), "content": self.value(1),
               "n": self.r.randint(0, 3), "sub": {"k": self.pick("x", "y", 1)}}
        if self.chance(0.2):
            del out[self.pick("content", "sub")]
        return out

    def context(self):
        return {
            "s": self.r.choice(WORDS), "t": self.r.choice(WORDS), "n": self.r.randint(-2, 9),
            "k": self.r.randint(0, 300), "f": self.r.choice([0.5, 2.75, -1.1, 1e16 + 0.5, 1e-5]),
            "b": self.chance(0.5), "l": [self.value(1) for _ in range(self.r.randint(0, 4))],
            "w": [self.r.choice(WORDS) for _ in range(self.r.randint(0, 5))],
            "d": [self.r.randint(-5, 30) for _ in range(self.r.randint(0, 5))],
            "m": {"name": self.r.choice(WORDS), "z": self.value(), "a": self.r.randint(0, 9),
                  "sub": {"k": "v", "x": [1, {"y": None}]}},
            "e": {"role": "user", "n": 1}, "z": None,
            "msgs": [self.message() for _ in range(self.r.randint(1, 4))],
            "tree": [{"v": 1, "c": [{"v": 2, "c": []}, {"v": "x"}]}, {"v": 3}],
        }


# ---- comparison


def reference(env, case):
    try:
        return {"out": env.from_string(case["t"]).render(**case["c"])}
    except Exception as e:  # whatever Jinja2 or Python refuses with
        return {"error": f"{type(e).__name__}: {e}"}


def outside(want, got):
    """What no template means to print: addresses, and integers of more than 64 bits."""
    if "integer is out of range" in got.get("error", "") or "a generator has no text" in \
            got.get("error", ""):
        return True
    text = want.get("out", "")
    return " object at 0x" in text or "<function" in text or "<bound method" in text \
        or "<built-in" in text or "<Macro" in text or "<Undefined" in text


def make_case(seed):
    m = Make(seed)
    return {"t": m.body(4), "c": m.context()}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("render")
    p.add_argument("--cases", type=int, default=2000)
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    env = make_env()
    cases = [make_case(args.seed * 1000003 + i) for i in range(args.cases)]
    done = subprocess.run([args.render], input="".join(json.dumps(c) + "\n" for c in cases),
                          capture_output=True, text=True, timeout=250, check=False)
    lines = done.stdout.split("\n")[:-1]
    if done.returncode or len(lines) != len(cases):
        print(f"render_lines ended with {done.returncode} after {len(lines)} of {len(cases)}")
        print(done.stderr[-2000:])
        return 1
    n = {"rendered": 0, "refused": 0, "left out": 0, "different": 0}
    for case, line in zip(cases, lines):
        want, got = reference(env, case), json.loads(line)
        if outside(want, got):
            n["left out"] += 1
        elif want.get("out") == got.get("out"):
            n["rendered" if "out" in want else "refused"] += 1
        else:
            n["different"] += 1
            if n["different"] <= SHOWN:
                print(json.dumps(case, ensure_ascii=False))
                print("  jinja2:", json.dumps(want, ensure_ascii=False)[:600])
                print("  kvasir:", json.dumps(got, ensure_ascii=False)[:600])
    print(f"seed {args.seed}: " + ", ".join(f"{v} {k}" for k, v in n.items()))
    return 1 if n["different"] or n["rendered"] < args.cases // 4 else 0


if __name__ == "__main__":
    sys.exit(main())
