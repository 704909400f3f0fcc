/* The subcommands of `kvasir`. Each gets its own argv (argv[0] is the subcommand's name), parses
 * its flags, prints errors as one line on stderr that says what to do, and returns the exit status:
 * 0 done, 1 failed, 2 wrong usage. `--help` prints usage on stdout and returns 0. */
#ifndef SERVER_COMMANDS_H
#define SERVER_COMMANDS_H

int cmd_serve(int argc, char **argv);
int cmd_chat(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_perplexity(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_template(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_quantize(int argc, char **argv);
int cmd_synth(int argc, char **argv);
int cmd_convert(int argc, char **argv);
int cmd_kv(int argc, char **argv);
int cmd_pull(int argc, char **argv);
int cmd_models(int argc, char **argv);

#endif
