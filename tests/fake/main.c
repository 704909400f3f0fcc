/* The whole server on the fake engine, for tests that need HTTP but no model:
 * kvasir-fake [--fake-step-us N] [--fake-row-us N] [--fake-never-eog] [--fake-fail-permille N]
 * [--fake-ctx N] [--fake-embd N] [--fake-encoder 1] [--fake-load-ms N]
 * [--fake-say TEXT] and then the options of
 * `kvasir serve`. */
#include "base/clock.h"
#include "config/options.h"
#include "fake_engine.h"
#include "server/serve.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Set by main before anything reads them. */
static struct fake_options fake = {.render_chat = fake_render_chat, .seed = 1};
static uint32_t load_ms;

struct fake_flag {
    const char *name;
    uint32_t *value;
};

/* Takes the --fake-… flags off the front; returns how many arguments they were. */
static int take_flags(int argc, char **argv)
{
    const struct fake_flag flags[] = {{"--fake-step-us", &fake.step_us},
                                      {"--fake-row-us", &fake.row_us},
                                      {"--fake-fail-permille", &fake.fail_permille},
                                      {"--fake-ctx", &fake.n_ctx},
                                      {"--fake-embd", &fake.n_embd},
                                      {"--fake-encoder", &fake.encoder},
                                      {"--fake-load-ms", &load_ms}};
    int k = 1;
    while (k < argc && strncmp(argv[k], "--fake-", 7) == 0) {
        if (strcmp(argv[k], "--fake-never-eog") == 0) {
            fake.never_eog = true;
            k++;
            continue;
        }
        if (strcmp(argv[k], "--fake-say") == 0 && k + 1 < argc) {
            fake.say = argv[k + 1];
        }
        for (size_t i = 0; i < sizeof flags / sizeof *flags && k + 1 < argc; i++) {
            if (strcmp(argv[k], flags[i].name) == 0) {
                *flags[i].value = (uint32_t)strtoul(argv[k + 1], NULL, 10);
            }
        }
        k += 2;
    }
    return k - 1;
}

static enum err_code open_fake(const struct cfg *cfg, struct eng **ret_g, struct err *e)
{
    (void)cfg;
    clock_sleep_us((uint64_t)load_ms * 1000);
    return fake_engine_create(&fake, ret_g, e);
}

int main(int argc, char **argv)
{
    struct cfg cfg;
    struct err e = {0};
    bool help = false;
    int n_taken = take_flags(argc, argv);
    if (cfg_load(argc - n_taken, argv + n_taken, cfg_process_env, NULL, &cfg, &help, &e) !=
            ERR_OK ||
        help) {
        (void)fprintf(stderr, "kvasir-fake: %s\n", e.msg);
        return 2;
    }
    int status = srv_run(&cfg, open_fake);
    cfg_finish(&cfg);
    return status;
}
