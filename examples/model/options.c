/* options.c - the command line: one table of options, strict about names and ranges. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "core/nearest.h"
#include "model.h"

typedef enum { TEXT, COUNT, NUMBER, BYTES, FLAG } kind;
typedef struct { const char *name; kind kind; size_t at; double least, most; const char *words, *help; } option;
#define AT(field) offsetof(options, field)

static const option known[] = {
    { "batch", COUNT, AT(batch), 1, 1 << 20, NULL, "images at once (4)" },
    { "size", COUNT, AT(size), 1, 1 << 16, NULL, "side of the images (the model's own)" },
    { "classes", COUNT, AT(classes), 1, 1 << 24, NULL, "of the classifier (1000, or those of --weights)" },
    { "channels", COUNT, AT(channels), 1, 4096, NULL, "of the images (3)" },
    { "train", FLAG, AT(train), 0, 0, NULL, "forward, backward and a step of AdamW" },
    { "infer", FLAG, AT(infer), 0, 0, NULL, "forward alone (the default)" },
    { "precision", TEXT, AT(precision), 0, 0, "f32 bf16", "f32, or bf16 for products and convolutions (f32)" },
    { "accumulate", COUNT, AT(accumulate), 1, 1 << 20, NULL, "the batch is computed in so many parts (1)" },
    { "optimizer", TEXT, AT(optimizer), 0, 0, "adamw momentum sgd", "adamw, momentum or sgd (adamw)" },
    { "limit", BYTES, AT(limit), 1, 1e15, NULL, "memory that may be used, as 8G or 512M" },
    { "layers", FLAG, AT(layers), 0, 0, NULL, "a line for each layer" },
    { "recompute", FLAG, AT(recompute), 0, 0, NULL, "blocks are computed again in backward instead of kept" },
    { "threads", COUNT, AT(threads), 1, 4096, NULL, "for the computation (all cores)" },
    { "steps", COUNT, AT(steps), 1, 1 << 24, NULL, "to time (as many as fit into three seconds)" },
    { "weights", TEXT, AT(weights), 0, 0, NULL, "safetensors, or a PyTorch checkpoint" },
    { "input", TEXT, AT(input), 0, 0, NULL, "\"x\" [N, H, W, C]: f32 normalised, or u8 pixels" },
    { "target", TEXT, AT(target), 0, 0, NULL, "classes i64 [N], or probabilities f32 [N, classes]" },
    { "output", TEXT, AT(output), 0, 0, NULL, "file to write (safetensors)" },
    { "skip", TEXT, AT(skip), 0, 0, NULL, "names of weights that are not loaded: \"head.* *.bias\"" },
    { "finite", FLAG, AT(finite), 0, 0, NULL, "refuse weights that are NaN or infinite" },
    { "tolerance", NUMBER, AT(tolerance), 0, 1e9, NULL, "largest difference, relative to the largest value (0)" },
    { "tsv", FLAG, AT(tsv), 0, 0, NULL, "fields with tabs between them, for programs" },
};
enum { KNOWN = sizeof known / sizeof *known };

/* Whether name is one of the words. */
static bool among(const char *words, const char *name)
{
    const size_t n = strlen(name);
    for (; *words; words += strcspn(words, " "), words += *words == ' ')
        if (strcspn(words, " ") == n && !strncmp(words, name, n)) return true;
    return false;
}

/* ---- help ---------------------------------------------------------------------------------------------- */

static void help_line(FILE *to, const command *c)
{
    char left[64];
    snprintf(left, sizeof left, "%s %s", c->name, c->arguments);
    fprintf(to, "  %-18s %s\n", left, c->help);
}

void options_help(FILE *to, const command *commands, const command *one)
{
    fputs("model COMMAND ...\n\n", to);
    for (const command *c = one ? one : commands; c->name && (!one || c == one); c++) help_line(to, c);
    fputs(one && !*one->options ? "" : "\n", to);
    for (int i = 0; i < KNOWN; i++) {
        if (one && !among(one->options, known[i].name)) continue;
        const bool needed = one && among(one->needed, known[i].name);
        fprintf(to, "  --%-12s %s%s\n", known[i].name, known[i].help, needed ? "; needed" : "");
    }
    if (!one) fputs("\n`model help COMMAND` lists the options that it takes.\n", to);
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static const command *find_command(const command *commands, const char *name)
{
    const command *near = commands;
    for (const command *c = commands; c->name; c++) {
        if (!strcmp(c->name, name)) return c;
        if (ag_edit_distance(name, c->name) < ag_edit_distance(name, near->name)) near = c;
    }
    ag_fail(NULL, "model: unknown command '%s'; did you mean '%s'? `model help` lists all", name, near->name);
}

static const option *find_option(const command *c, const char *name)
{
    const option *near = NULL;
    for (const option *k = known; k < known + KNOWN; k++) {
        if (!strcmp(k->name, name) && !among(c->options, name))
            ag_fail(NULL, "model: %s takes no --%s; `model help %s` lists its options", c->name, name, c->name);
        if (!strcmp(k->name, name)) return k;
        if (!among(c->options, k->name)) continue;
        if (!near || ag_edit_distance(name, k->name) < ag_edit_distance(name, near->name)) near = k;
    }
    if (!near) ag_fail(NULL, "model: unknown option '--%s'; %s takes none", name, c->name);
    ag_fail(NULL, "model: unknown option '--%s'; did you mean '--%s'? `model help %s` lists all", name, near->name,
            c->name);
}

static double number(const option *k, const char *text, char **end)
{
    errno = 0;
    const double v = strtod(text, end);
    if (*end == text || errno == ERANGE || !(v >= k->least && v <= k->most))
        ag_fail(NULL, "model: --%s takes a %snumber from %.10g to %.10g, got '%s'", k->name, k->kind == COUNT ? "whole " : "",
                k->least, k->most, text);
    return v;
}

static int64_t count(const option *k, const char *text)
{
    char *end;
    const double v = number(k, text, &end);
    if (*end || v != floor(v)) ag_fail(NULL, "model: --%s takes a whole number, got '%s'", k->name, text);
    return (int64_t)v;
}

static int64_t bytes(const option *k, const char *text)
{
    static const char units[] = "KMGT";
    char *end;
    double v = number(k, text, &end);
    const char *unit = *end ? strchr(units, *end) : NULL;
    if (*end && (!unit || end[1]))
        ag_fail(NULL, "model: --%s takes bytes, or a number with K, M, G or T; got '%s'", k->name, text);
    if (unit) v = ldexp(v, 10 * (int)(unit - units + 1));
    return (int64_t)v;
}

static void set(options *o, const option *k, const char *text)
{
    void *to = (char *)o + k->at;
    char *end;
    switch (k->kind) {
    case TEXT:
        if (k->words && !among(k->words, text))
            ag_fail(NULL, "model: --%s takes one of: %s; got '%s'", k->name, k->words, text);
        *(const char **)to = text;
        break;
    case COUNT: *(int64_t *)to = count(k, text); break;
    case BYTES: *(int64_t *)to = bytes(k, text); break;
    case NUMBER:
        *(double *)to = number(k, text, &end);
        if (*end) ag_fail(NULL, "model: --%s takes a number, got '%s'", k->name, text);
        break;
    case FLAG: *(bool *)to = true; break;
    }
}

static void check(const options *o, int arguments)
{
    const command *c = o->command;
    if (arguments < c->least)
        ag_fail(NULL, "model: %s needs %s; `model help %s` says more", c->name, c->arguments, c->name);
    for (const option *k = known; k < known + KNOWN; k++)
        if (among(c->needed, k->name) && !*(const char *const *)(const void *)((const char *)o + k->at))
            ag_fail(NULL, "model: %s needs --%s: %s", c->name, k->name, k->help);
    if (o->train && o->infer) ag_fail(NULL, "model: --train or --infer, not both");
}

/* Reads argv[*i] and, where it has its value behind it, the next. */
static void read_option(options *o, int argc, char **argv, int *i)
{
    char name[40];
    const char *text = argv[*i] + 2;
    const size_t n = strcspn(text, "=");
    snprintf(name, sizeof name, "%.*s", (int)(n < 39 ? n : 39), text);
    const option *k = find_option(o->command, name);
    const char *value = text[n] == '=' ? text + n + 1 : NULL;
    if (k->kind == FLAG && value) ag_fail(NULL, "model: --%s takes no value", k->name);
    if (k->kind != FLAG && !value) {
        if (++*i == argc) ag_fail(NULL, "model: --%s needs a value: %s", k->name, k->help);
        value = argv[*i];
    }
    set(o, k, value);
}

options options_parse(int argc, char **argv, const command *commands)
{
    options o = { .batch = 4, .accumulate = 1, .precision = "f32", .optimizer = "adamw" };
    int arguments = 0;
    if (argc < 2) {
        options_help(stderr, commands, NULL);
        exit(2);
    }
    const bool asks = !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h");
    o.command = find_command(commands, asks ? "help" : argv[1]);
    for (int i = 2; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            options_help(stdout, commands, o.command);
            exit(0);
        }
        if (!strncmp(argv[i], "--", 2)) read_option(&o, argc, argv, &i);
        else if (arguments < o.command->most) o.argument[arguments++] = argv[i];
        else ag_fail(NULL, "model: '%s' is one argument too many; %s takes %s", argv[i], o.command->name,
                     *o.command->arguments ? o.command->arguments : "none");
    }
    check(&o, arguments);
    return o;
}
