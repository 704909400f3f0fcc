"""Generators of conversations: each takes a random.Random and returns turns (role, text, weight of its tokens in 1/16)."""
import json
import zlib

import world

ANSWER, TEXT, NONE = 16, 3, 0
LETTERS = "abcdefghijklmnopqrstuvwxyz"
NAMES = ("Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Karl Lena Mira Nils Olga Paul Rosa Sven Tara Uli Vera Willi "
         "Lily Tom Max Mia Leo Nina Oscar Ella Sam Lucy Jack Zoe Finn Ruby Theo Amy Ned Kate").split()
THINGS = "ball kite book lamp basket coin ring key drum boat hat map rope bell box cup flute mirror letter stone shell blanket".split()
PLACES = "park forest beach garden market river hill farm village castle school lake mountain meadow harbour library kitchen".split()
CITIES = list(world.CAPITALS.values())
JOBS = "baker teacher farmer doctor sailor painter singer cook gardener driver tailor writer".split()
FACTS = world.facts()


def held_out(key):
    """One key in ten, by its checksum, is kept for the evaluation."""
    return zlib.crc32(key.encode()) % 10 == 0


def key(rng, held=False, style=None):
    style = style or rng.choices("lamxw", (60, 15, 10, 5, 10))[0]
    while True:
        if style == "l":
            k = "".join(rng.choices(LETTERS, k=rng.randint(3, 6)))
        elif style == "a":
            k = "".join(rng.choices(LETTERS, k=rng.randint(2, 4))) + str(rng.randrange(100))
        elif style == "m":
            k = "".join(rng.choices(LETTERS + "0123456789", k=rng.randint(4, 6)))
        elif style == "x":
            k = "%08x" % rng.getrandbits(32)
        else:
            k = rng.choice(THINGS + PLACES + JOBS) + "_" + "".join(rng.choices(LETTERS, k=2))
        if held_out(k) == held:
            return k


def kv_pairs(rng, n, held=False, style=None):
    pairs = {}
    mixed = style is None and rng.random() < 0.2
    style = style or rng.choices("lamxw", (60, 15, 10, 5, 10))[0]
    while len(pairs) < n:
        pairs[key(rng, held, None if mixed else style)] = rng.randrange(1000, 10000)
    return pairs


def kv_prompt(pairs, name, indent=None, quoted=False):
    """The exact form: "JSON data:", the object, the question."""
    data = {k: str(v) for k, v in pairs.items()} if quoted else pairs
    return f"JSON data:\n{json.dumps(data, indent=indent)}\n{kv_question(name)}"


def kv_question(name):
    return f'What is the value of "{name}"?'


def kv(rng, n, n_ask):
    pairs = kv_pairs(rng, n)
    names = list(pairs)
    indent = 1 if rng.random() < 0.08 else None
    quoted = rng.random() < 0.15
    turns = []
    for i in range(n_ask):
        k = rng.choice(names)
        turns.append(("user", kv_prompt(pairs, k, indent, quoted) if i == 0 else kv_question(k), NONE))
        turns.append(("assistant", str(pairs[k]), ANSWER))
    return turns


def story(rng):
    a, b = rng.sample(NAMES, 2)
    thing, thing2 = rng.sample(THINGS, 2)
    place, place2 = rng.sample(PLACES, 2)
    animal = rng.choice([x for x in world.ANIMALS if x not in ("spider", "ant", "bee")])
    mood = rng.choice(["happy", "curious", "kind", "brave", "quiet", "clever"])
    colour = rng.choice(["red", "blue", "green", "yellow", "white", "golden", "old", "little"])
    day = rng.choice(["One day", "One morning", "One evening", "One sunny day", "One rainy day"])
    s = [rng.choice([f"Once upon a time there was a {mood} child named {a}.", f"{a} was a {mood} child who lived near a {place}.",
                     f"There once lived a {mood} girl or boy called {a} in a small house by the {place}.",
                     f"In a village by the {place} lived {a}, who was very {mood}."])]
    s.append(rng.choice([f"{a} had a {colour} {thing}.", f"{a} loved a {colour} {thing} more than anything.",
                         f"The best thing {a} had was a {colour} {thing}."]))
    s.append(rng.choice([f"{day}, {a} went to the {place2} with the {thing}.", f"{day}, {a} took the {thing} to the {place2}."]))
    plot = rng.randrange(4)
    if plot == 0:
        s += [rng.choice([f"But the {thing} fell and was lost.", f"But then {a} lost the {thing}."]), f"{a} was sad and began to look for it.",
              rng.choice([f"{b} came by and asked, \"Why are you sad?\"", f"Then {b} came along and asked what was wrong."]),
              rng.choice([f"\"I lost my {thing},\" said {a}.", f"{a} said, \"I cannot find my {thing}.\""]),
              f"Together they looked behind every tree and under every stone.",
              rng.choice([f"At last {b} found the {thing} near the {place2}.", f"In the end a {animal} showed them where the {thing} was."]),
              f"{a} was so glad and thanked {b}."]
        short = f"{a} loses a {thing} at the {place2} and finds it again with the help of {b}."
    elif plot == 1:
        s += [f"There {a} met a {animal}.", rng.choice([f"The {animal} was hungry and alone.", f"The {animal} looked cold and afraid."]),
              rng.choice([f"{a} gave it some {world.ANIMALS[animal][2]}.", f"{a} sat down and spoke to it softly."]),
              f"From that day on the {animal} followed {a} everywhere.",
              rng.choice([f"When {b} saw them, {b} laughed with joy.", f"Even {b} became a friend of the {animal}."])]
        short = f"{a} meets a {animal} at the {place2} and they become friends."
    elif plot == 2:
        s += [f"{b} was there too, with a {thing2}.", f"\"Can I play with your {thing}?\" asked {b}.",
              rng.choice([f"At first {a} said no.", f"{a} thought about it for a while."]), f"Then {a} saw that {b} was sad.",
              f"\"Let us share,\" said {a}. \"You can have my {thing}, and I will try your {thing2}.\"", f"They played until the sun went down."]
        short = f"{a} and {b} learn to share a {thing} and a {thing2} at the {place2}."
    else:
        s += [f"Suddenly it began to rain and the wind was strong.", f"{a} ran to a tree and waited.",
              f"There sat a wet {animal}, and {a} was not alone any more.", rng.choice([f"{b} came with a big umbrella and took them home.",
                                                                                      f"{b} called them into a warm house and made tea."]),
              f"They dried the {thing} by the fire."]
        short = f"{a} is caught in the rain at the {place2} and {b} helps."
    s.append(rng.choice([f"They were friends for ever.", f"And {a} went home happy.", f"That night {a} slept very well.",
                         f"{a} never forgot that day.", f"And they lived happily ever after."]))
    return " ".join(s), short, {"hero": a, "friend": b, "thing": thing, "place": place2, "animal": animal}


def ask_story(rng):
    text, short, who = story(rng)
    how = rng.randrange(4)
    if how == 0:
        turns = [("user", rng.choice(["Tell me a story.", "Tell me a short story.", "Can you tell me a story?", "Please tell me a story.",
                                      "Write a story.", "Write a short story.", "I want to hear a story."]), NONE)]
    elif how == 1:
        turns = [("user", rng.choice(["Tell me a story about {}.", "Write a story about {}.", "Tell a story about {}."]).format(who["hero"]), NONE)]
    elif how == 2:
        turns = [("user", rng.choice(["Tell me a story about {} and a {}.", "Write a story about {} and a {}."]).format(who["hero"], who["thing"]), NONE)]
    else:
        return [("user", rng.choice(["Summarise this story:\n", "Summarize:\n", "What is this story about?\n", "Give a summary of this text.\n"]) + text, TEXT),
                ("assistant", short, ANSWER)]
    turns.append(("assistant", text, TEXT))
    if rng.random() < 0.4:
        q, answer = rng.choice([("What is the name of the child?", who["hero"]), ("Who is the story about?", who["hero"]),
                                ("Which thing is in the story?", "A " + who["thing"] + "."), ("Sum it up.", short)])
        turns += [("user", q, NONE), ("assistant", answer, ANSWER)]
    return turns


def question(rng, held=False):
    kind, asks, short, sentence = rng.choice(FACTS)
    ask = asks[-1] if held else rng.choice(asks[:-1])
    return ask, short, sentence


def closed_world(rng):
    turns = []
    for _ in range(rng.randint(1, 5)):
        ask, _, sentence = question(rng)
        if rng.random() < 0.1:
            ask = ask[:-1]
        turns += [("user", ask, NONE), ("assistant", sentence, ANSWER)]
    return turns


def chat(rng):
    turns = []
    for _ in range(rng.randint(1, 4)):
        q, a = rng.choice(world.GREETINGS if rng.random() < 0.45 else world.KVASIR)
        if rng.random() < 0.15:
            q = q.lower()
        turns += [("user", q, NONE), ("assistant", a, 6)]
    return turns


def arithmetic(rng):
    turns = []
    for _ in range(rng.randint(2, 8)):
        op = rng.choice("++--*c")
        if op == "+":
            a = rng.randint(0, 100)
            b = rng.randint(0, 100 - a)
            q, r = rng.choice([f"What is {a} + {b}?", f"{a} + {b} =", f"Add {a} and {b}.", f"What is {a} plus {b}?"]), a + b
        elif op == "-":
            a = rng.randint(0, 100)
            b = rng.randint(0, a)
            q, r = rng.choice([f"What is {a} - {b}?", f"{a} - {b} =", f"What is {a} minus {b}?"]), a - b
        elif op == "*":
            a, b = rng.randint(0, 10), rng.randint(0, 10)
            q, r = rng.choice([f"What is {a} * {b}?", f"{a} * {b} =", f"What is {a} times {b}?"]), a * b
        else:
            a, b = rng.sample(range(101), 2)
            q, r = rng.choice([(f"Which is larger, {a} or {b}?", max(a, b)), (f"Which is smaller, {a} or {b}?", min(a, b))])
        turns += [("user", q, NONE), ("assistant", str(r), ANSWER)]
    return turns


def words(rng, n):
    return [rng.choice(THINGS + PLACES + NAMES + JOBS) for _ in range(n)]


def copying(rng):
    how = rng.randrange(5)
    if how == 0:
        t = " ".join("".join(rng.choices(LETTERS, k=rng.randint(2, 6))) for _ in range(rng.randint(3, 30)))
        return [("user", rng.choice(["Repeat:\n", "Copy this:\n", "Repeat after me:\n"]) + t, NONE), ("assistant", t, 8)]
    if how == 1:
        t = ", ".join(words(rng, rng.randint(3, 12)))
        return [("user", "Repeat this list:\n" + t, NONE), ("assistant", t, 8)]
    if how == 2:
        w = words(rng, rng.randint(2, 8))
        return [("user", "Reverse this list:\n" + ", ".join(w), NONE), ("assistant", ", ".join(w[::-1]), 8)]
    if how == 3:
        t = json.dumps(kv_pairs(rng, rng.randint(2, 8)))
        return [("user", "Repeat this JSON:\n" + t, NONE), ("assistant", t, 8)]
    w = words(rng, rng.randint(3, 9))
    i = rng.randrange(3)
    ask, right = [("first", w[0]), ("last", w[-1]), ("second", w[1])][i]
    return [("user", ", ".join(w) + f"\nWhat is the {ask} word?", NONE), ("assistant", right, ANSWER)]


def json_fields(rng):
    pool = [("name", rng.choice(NAMES)), ("age", rng.randint(1, 99)), ("city", rng.choice(CITIES)), ("job", rng.choice(JOBS)),
            ("colour", rng.choice(["red", "blue", "green", "black"])), ("price", rng.randint(1, 999)), ("animal", rng.choice(list(world.ANIMALS))),
            ("happy", rng.random() < 0.5), ("item", rng.choice(THINGS)), ("count", rng.randint(0, 99)), ("place", rng.choice(PLACES)),
            ("day", rng.choice(world.DAYS))]
    return rng.sample(pool, rng.randint(1, 5))


def spoken(v):
    return json.dumps(v) if isinstance(v, bool) else str(v)


def make_json(rng):
    f = json_fields(rng)
    how = rng.randrange(4)
    if how == 0:
        ask = "Give me a JSON object with " + ", ".join(f"{k} {spoken(v)}" for k, v in f) + "."
        out = json.dumps(dict(f))
    elif how == 1:
        ask = "Write JSON: " + ", ".join(f"{k} is {spoken(v)}" for k, v in f)
        out = json.dumps(dict(f))
    elif how == 2:
        keys = [k for k, _ in f]
        ask = rng.choice(["Make up a JSON object with the keys ", "Give me a JSON object with the keys "]) + ", ".join(keys) + "."
        out = json.dumps(dict(f))
    else:
        w = words(rng, rng.randint(2, 6))
        ask = "Write this as a JSON list: " + ", ".join(w)
        out = json.dumps(w)
    return [("user", ask, NONE), ("assistant", out, 8)]


TOOLS = [("get_weather", "city", "the weather in {}", CITIES), ("get_time", "city", "the time in {}", CITIES), ("search", "query", "a {}", THINGS),
         ("play_music", "artist", "music by {}", NAMES), ("call", "name", "{} on the phone", NAMES)]


def tool_schema(t):
    return {"type": "function", "function": {"name": t[0], "parameters": {"type": "object", "properties": {t[1]: {"type": "string"}}, "required": [t[1]]}}}


def tool_prompt(tools):
    return ("You may call these functions:\n" + "\n".join(json.dumps(tool_schema(t)) for t in tools) +
            '\nAnswer a call with <tool_call>{"name": NAME, "arguments": {}}</tool_call>.')


def tool_call(rng):
    tools = rng.sample(TOOLS, rng.randint(1, 3))
    t = rng.choice(tools)
    v = rng.choice(t[3])
    ask = {"get_weather": ["What is the weather in {}?", "How is the weather in {}?"], "get_time": ["What time is it in {}?", "Tell me the time in {}."],
           "search": ["Search for a {}.", "Find me a {}."], "play_music": ["Play music by {}.", "Play something by {}."],
           "call": ["Call {}.", "Please call {}."]}[t[0]]
    return [("system", tool_prompt(tools), NONE), ("user", rng.choice(ask).format(v), NONE),
            ("assistant", "<tool_call>" + json.dumps({"name": t[0], "arguments": {t[1]: v}}) + "</tool_call>", 8)]


def needle(rng, n_sentence, n_ask, held=False):
    text = []
    while len(text) < n_sentence:
        text += [s + "." for s in story(rng)[0].replace('"', "").rstrip(".").split(". ")] if rng.random() < 0.7 else [rng.choice(FACTS)[3]]
    who = {}
    while len(who) < min(n_ask + 1, 12):
        who[key(rng, held, "l").capitalize() if rng.random() < 0.5 else rng.choice(NAMES) + " " + key(rng, held, "l").capitalize()] = rng.randrange(1000, 10000)
    for name, code in who.items():
        text.insert(rng.randint(0, len(text)), f"The secret code of {name} is {code}.")
    turns = []
    for i in range(n_ask):
        name = rng.choice(list(who))
        q = f"What is the secret code of {name}?"
        turns += [("user", " ".join(text) + "\n" + q if i == 0 else q, NONE), ("assistant", str(who[name]), ANSWER)]
    return turns


def tracing(rng, n, n_ask, held=False):
    value, lines = {}, []
    while len(value) < n:
        k = key(rng, held, "l")
        if k in value:
            continue
        if value and rng.random() < 0.4:
            other = rng.choice(list(value))
            value[k] = value[other]
            lines.append(f"{k} = ${other}")
        else:
            value[k] = rng.randrange(1000, 10000)
            lines.append(f"{k} = {value[k]}")
    turns = []
    for i in range(n_ask):
        k = rng.choice(list(value))
        q = kv_question(k)
        turns += [("user", "Variables:\n" + "\n".join(lines) + "\n" + q if i == 0 else q, NONE), ("assistant", str(value[k]), ANSWER)]
    return turns
