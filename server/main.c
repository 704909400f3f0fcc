/* `kvasir COMMAND …`: finds the command and hands its arguments over. */
#include "server/commands.h"

#include <stdio.h>
#include <string.h>

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
};

static const struct command commands[] = {
    {"serve", cmd_serve, "answer OpenAI requests over HTTP"},
    {"chat", cmd_chat, "talk to a model in the terminal"},
    {"eval", cmd_eval, "logits and greedy tokens for given token ids"},
    {"bench", cmd_bench, "prefill and decode speed"},
    {"perplexity", cmd_perplexity, "perplexity of a model on a text"},
    {"tokenize", cmd_tokenize, "token ids of a text"},
    {"template", cmd_template, "render a chat template"},
    {"inspect", cmd_inspect, "metadata, tensors and memory of a GGUF file"},
    {"kv", cmd_kv, "look at, pin, export or drop what a KV directory keeps"},
    {"quantize", cmd_quantize, "write a GGUF file with other weight types"},
    {"synth", cmd_synth, "write a GGUF file with made-up weights"},
    {"convert", cmd_convert, "write a Hugging Face folder as a GGUF file"},
    {"pull", cmd_pull, "fetch a model from the hub into the cache"},
    {"models", cmd_models, "list, remove and prune the cache"},
};
#define N_COMMAND (sizeof commands / sizeof *commands)

static void print_usage(FILE *to)
{
    (void)fprintf(to, "usage: kvasir COMMAND [OPTIONS]\n\ncommands:\n");
    for (size_t i = 0; i < N_COMMAND; i++) {
        (void)fprintf(to, "  %-11s %s\n", commands[i].name, commands[i].summary);
    }
    (void)fprintf(to, "\n'kvasir COMMAND --help' tells a command's options; "
                      "'kvasir --version' the version.\n");
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) {
        print_usage(stderr);
        return 2;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_usage(stdout);
        return 0;
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0) {
        (void)printf("kvasir %s\n", KVASIR_VERSION);
        return 0;
    }
    for (size_t i = 0; i < N_COMMAND; i++) {
        if (strcmp(name, commands[i].name) == 0) {
            return commands[i].run(argc - 1, argv + 1);
        }
    }
    (void)fprintf(stderr, "kvasir: no command '%s'; 'kvasir --help' lists them\n", name);
    return 2;
}
