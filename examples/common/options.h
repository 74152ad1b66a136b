/* examples/common/options.h - the command line of a program: a table of commands, a table of options, strict about names
 * and ranges.
 *
 *     static const option known[] = { OPTION("epochs", COUNT, AT(epochs), 1, 1000, NULL, "passes (5)"), { 0 } };
 *     static const command commands[] = { { "train", "[DIR]", 0, 1, "epochs save", "", train, "cpu", "learn" }, { 0 } };
 *     static const program self = { "paddy", commands, known, "" };
 *
 *     options o = { .epochs = 5 };
 *     o.line = options_parse(&self, argc, argv, &o);
 *     return o.line.command->run(&o);
 *
 * `options` is the program's own struct; its defaults are what it holds before. */
#ifndef EXAMPLES_OPTIONS_H
#define EXAMPLES_OPTIONS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct options options;
typedef struct option option;
typedef struct program program;

/* The field is: const char * (where there are words, one of them); int64_t; double; int64_t, with K, M, G or T behind the
 * number; bool; int64_t[room], ended by 0 where shorter; whatever .read makes of the text. */
typedef enum { TEXT, COUNT, NUMBER, BYTES, FLAG, COUNTS, OWN } option_kind;
struct option {
    char unset_;
    const char *name;
    option_kind kind;
    size_t at;                          /* AT(field) */
    double least, most;
    const char *words, *help;
    int room;                           /* .room and .read are given by name */
    void (*read)(const program *p, const option *k, const char *text, options *o);
};
#define OPTION(...) { .unset_ = 0, __VA_ARGS__ }
#define AT(field) offsetof(options, field)

enum { ANY_NUMBER = 1 << 30 };          /* of arguments */
typedef struct {
    const char *name, *arguments;       /* as in the help: "NAME", "A B", "[PATTERN]" */
    int least, most;                    /* of them */
    const char *options, *needed;       /* names of the options it takes, and of those it cannot do without */
    int (*run)(const options *o);       /* the exit status */
    const char *device, *help;          /* "meta": shapes without values will do */
} command;

struct program {
    const char *name;
    const command *commands;            /* both end with { 0 } */
    const option *options;
    const char *notes;                  /* a paragraph for the help */
};

typedef struct {
    const program *program;
    const command *command;
    int arguments;
    const char *const *argument;        /* those that are no options; argument[arguments] and the next are NULL */
    int argc;
    char **argv;
} command_line;

/* Reads the command line into o. Fails, in one line that names the nearest command or option, on anything unknown,
 * missing, superfluous or out of range; prints the help and ends where it is asked for. */
command_line options_parse(const program *p, int argc, char **argv, options *o);
/* The command `help`, of all commands or of its argument: `int help(const options *o) { return options_help(&o->line); }` */
int options_help(const command_line *line);
/* A number at the beginning of text, in the option's range; *end: behind it. For .read. */
double options_number(const program *p, const option *k, const char *text, char **end);
/* Fails where a file of this name cannot be written: said before a long run, not after it. NULL: nothing is to be written. */
void options_require_writable(const command_line *line, const char *path);
/* The command line with `--resume save` instead of its own --resume; free with ag_free. */
char *options_resume_command(const command_line *line, const char *save);

#endif
