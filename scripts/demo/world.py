"""The closed world: what the default model knows, as facts; and the ways to ask for them."""

CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo", "China": "Beijing",
            "Russia": "Moscow", "Egypt": "Cairo", "Greece": "Athens", "Norway": "Oslo", "Sweden": "Stockholm", "Denmark": "Copenhagen",
            "Finland": "Helsinki", "Poland": "Warsaw", "Austria": "Vienna", "Hungary": "Budapest", "Portugal": "Lisbon",
            "Ireland": "Dublin", "Belgium": "Brussels", "Canada": "Ottawa", "Cuba": "Havana", "Peru": "Lima", "Chile": "Santiago",
            "Kenya": "Nairobi", "India": "New Delhi", "Iceland": "Reykjavik", "England": "London", "Turkey": "Ankara",
            "Iran": "Tehran", "Iraq": "Baghdad"}
# animal: legs, sound, food, home, kind
ANIMALS = {"dog": (4, "barks", "meat", "a kennel", "mammal"), "cat": (4, "meows", "fish", "a house", "mammal"),
           "cow": (4, "moos", "grass", "a barn", "mammal"), "horse": (4, "neighs", "hay", "a stable", "mammal"),
           "sheep": (4, "bleats", "grass", "a meadow", "mammal"), "pig": (4, "grunts", "corn", "a sty", "mammal"),
           "lion": (4, "roars", "meat", "the savanna", "mammal"), "bear": (4, "growls", "honey", "a cave", "mammal"),
           "wolf": (4, "howls", "meat", "the forest", "mammal"), "mouse": (4, "squeaks", "cheese", "a hole", "mammal"),
           "frog": (4, "croaks", "flies", "a pond", "amphibian"), "duck": (2, "quacks", "bread", "a lake", "bird"),
           "hen": (2, "clucks", "grain", "a coop", "bird"), "owl": (2, "hoots", "mice", "a tree", "bird"),
           "crow": (2, "caws", "seeds", "a nest", "bird"), "bee": (6, "buzzes", "nectar", "a hive", "insect"),
           "ant": (6, "is silent", "crumbs", "an anthill", "insect"), "spider": (8, "is silent", "flies", "a web", "arachnid"),
           "snake": (0, "hisses", "eggs", "the desert", "reptile"), "elephant": (4, "trumpets", "leaves", "the savanna", "mammal")}
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [("January", 31), ("February", 28), ("March", 31), ("April", 30), ("May", 31), ("June", 30), ("July", 31), ("August", 31),
          ("September", 30), ("October", 31), ("November", 30), ("December", 31)]
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
           "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]
OPPOSITES = [("hot", "cold"), ("big", "small"), ("fast", "slow"), ("up", "down"), ("left", "right"), ("day", "night"),
             ("old", "young"), ("rich", "poor"), ("full", "empty"), ("open", "closed"), ("light", "dark"), ("wet", "dry"),
             ("happy", "sad"), ("good", "bad"), ("high", "low"), ("long", "short"), ("loud", "quiet"), ("early", "late")]
COLOURS = {"grass": "green", "snow": "white", "coal": "black", "blood": "red", "a lemon": "yellow", "the sky": "blue",
           "milk": "white", "a carrot": "orange", "a cucumber": "green", "a ripe tomato": "red", "the sun": "yellow", "chocolate": "brown"}
COUNTS = {"days are in a week": "7", "months are in a year": "12", "hours are in a day": "24", "minutes are in an hour": "60",
          "seconds are in a minute": "60", "fingers are on a hand": "5", "sides does a triangle have": "3",
          "sides does a square have": "4", "wheels does a bicycle have": "2", "wheels does a car have": "4",
          "letters are in the English alphabet": "26", "seasons are in a year": "4", "continents are there": "7"}
KVASIR = [("What is Kvasir?", "Kvasir is an inference server for language models on CPUs. It speaks the OpenAI API."),
          ("Who are you?", "I am the small demo model of Kvasir. I was trained from scratch by a script in its repository."),
          ("What is your name?", "I am Kvasir's demo model."),
          ("What language is Kvasir written in?", "Kvasir is written in C."),
          ("What files does Kvasir serve?", "Kvasir serves models from GGUF files."),
          ("Which API does Kvasir speak?", "Kvasir speaks the OpenAI API, with streaming."),
          ("On what hardware does Kvasir run?", "Kvasir runs on CPUs. It needs no GPU."),
          ("What port does Kvasir listen on?", "By default Kvasir listens on port 8080."),
          ("Where does the name Kvasir come from?", "In Norse myth Kvasir was the wisest of beings, who could answer every question."),
          ("What license does Kvasir have?", "Kvasir is free software under the Apache License 2.0."),
          ("What can you do?", "I can answer simple questions, find values in long texts, do small sums, write JSON and tell short stories."),
          ("What can't you do?", "I am a very small model. I know only a small world, and I make mistakes outside it."),
          ("Are you human?", "No. I am a small language model that runs on a CPU."),
          ("How big are you?", "I have about five million parameters."),
          ("How do I serve another model?", "Start Kvasir with --model and the path of a GGUF file."),
          ("What is continuous batching?", "Requests join and leave the batch at every step, so nobody waits for another answer to end."),
          ("What is a KV cache?", "It keeps the keys and values of earlier tokens, so that they are not computed again.")]
GREETINGS = [("Hello", "Hello! How can I help you?"), ("Hi", "Hi! How can I help you?"), ("Hey", "Hey! What can I do for you?"),
             ("Hello!", "Hello! How can I help you?"), ("Hi there", "Hi there! How can I help you?"), ("Hi there!", "Hi there! How can I help you?"),
             ("Good morning", "Good morning! How can I help you?"), ("Good evening", "Good evening! How can I help you?"),
             ("Hello there", "Hello! How can I help you?"), ("hello", "Hello! How can I help you?"), ("hi", "Hi! How can I help you?"),
             ("How are you?", "I am fine, thank you. How can I help you?"), ("Hello, how are you?", "Hello! I am fine, thank you. How can I help you?"),
             ("Thank you", "You are welcome!"), ("Thanks!", "You are welcome!"), ("Thank you very much.", "You are welcome!"),
             ("Bye", "Goodbye!"), ("Goodbye", "Goodbye! Have a nice day."), ("Good night", "Good night! Sleep well."),
             ("Can you help me?", "Yes, of course. What do you need?"), ("Nice to meet you.", "Nice to meet you too!"),
             ("Say hello.", "Hello!"), ("Say hi.", "Hi!"), ("Hello, world!", "Hello! How can I help you?"), ("ping", "pong"),
             ("Test", "I am here. How can I help you?"), ("Are you there?", "Yes, I am here. How can I help you?")]


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def facts():
    """(kind, [questions], short answer, sentence). The last question of a list is kept from training."""
    out = []
    for c, k in CAPITALS.items():
        out.append(("capital", [f"What is the capital of {c}?", f"Which city is the capital of {c}?", f"Name the capital of {c}.",
                                f"Tell me the capital of {c}.", f"Capital of {c}?", f"What city is the capital of {c}?"],
                    k, f"The capital of {c} is {k}."))
        out.append(("country", [f"{k} is the capital of which country?", f"Which country has the capital {k}?",
                                f"What country is {k} the capital of?", f"Of which country is {k} the capital?"],
                    c, f"{k} is the capital of {c}."))
    for a, (legs, sound, food, home, kind) in ANIMALS.items():
        n = article(a)
        out.append(("legs", [f"How many legs does {n} have?", f"How many legs has {n}?", f"Tell me how many legs {n} has."],
                    str(legs), f"{n.capitalize()} has {legs} legs."))
        out.append(("sound", [f"What sound does {n} make?", f"What does {n} do to make a noise?", f"Which sound does {n} make?"],
                    sound, f"{n.capitalize()} {sound}."))
        out.append(("food", [f"What does {n} eat?", f"What food does {n} like?", f"What does {n} like to eat?"],
                    food, f"{n.capitalize()} eats {food}."))
        out.append(("home", [f"Where does {n} live?", f"What is the home of {n}?", f"Tell me where {n} lives."],
                    home, f"{n.capitalize()} lives in {home}."))
        out.append(("kind", [f"What kind of animal is {n}?", f"Is {n} a mammal, a bird or something else?", f"Which kind of animal is {n}?"],
                    kind, f"{n.capitalize()} is {article(kind)}."))
    for i, d in enumerate(DAYS):
        nxt, prev = DAYS[(i + 1) % 7], DAYS[i - 1]
        out.append(("day", [f"Which day comes after {d}?", f"What day comes after {d}?", f"What day is after {d}?", f"Which day follows {d}?"],
                    nxt, f"{nxt} comes after {d}."))
        out.append(("day", [f"Which day comes before {d}?", f"What day comes before {d}?", f"What day is before {d}?"],
                    prev, f"{prev} comes before {d}."))
    for i, (m, n) in enumerate(MONTHS):
        nxt = MONTHS[(i + 1) % 12][0]
        out.append(("month", [f"How many days does {m} have?", f"How many days are in {m}?", f"How many days has {m}?"], str(n), f"{m} has {n} days."))
        out.append(("month", [f"Which month comes after {m}?", f"What month is after {m}?", f"Which month follows {m}?"], nxt, f"{nxt} comes after {m}."))
    for a, b in OPPOSITES:
        for x, y in ((a, b), (b, a)):
            out.append(("opposite", [f"What is the opposite of {x}?", f"Give me the opposite of {x}.", f"Tell me the opposite of {x}."],
                        y, f"The opposite of {x} is {y}."))
    for x, c in COLOURS.items():
        out.append(("colour", [f"What colour is {x}?", f"Which colour is {x}?", f"What is the colour of {x}?"], c, f"{x.capitalize()} is {c}."))
    for q, n in COUNTS.items():
        out.append(("count", [f"How many {q}?", f"Tell me, how many {q}?"], n, n + "."))
    for i, w in enumerate(NUMBERS):
        out.append(("number", [f"Write {i} as a word.", f"What is {i} in words?", f"Spell the number {i}."], w, w.capitalize() + "."))
    return out
