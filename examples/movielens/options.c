/* options.c - the command line: one table of options, strict about names and ranges. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/nearest.h"
#include "movielens.h"

static const char *const commands[] = { "train", "chapter", "recommend", "similar", "biases", "predict", "map", "lr-find",
                                        "spreadsheet", "download", "help" };

typedef enum { TEXT, COUNT, NUMBER, FLAG, LAYERS, RANGE } kind;
typedef struct { const char *name; kind kind; size_t at; double least, most; const char *words, *help; } option;
#define AT(field) offsetof(options, field)

static const option known[] = {
    { "model", TEXT, AT(model), 0, 0, "dot bias nn", "dot, bias or nn (default bias)" },
    { "factors", COUNT, AT(factors), 1, 4096, NULL, "factors of a user and a film (50)" },
    { "layers", LAYERS, AT(layers), 1, 65536, NULL, "sizes of the nn model's layers (100,50)" },
    { "epochs", COUNT, AT(epochs), 1, 100000, NULL, "passes over the ratings (5)" },
    { "batch", COUNT, AT(batch), 1, 1 << 24, NULL, "ratings per batch (64)" },
    { "accumulate", COUNT, AT(accumulate), 1, 1 << 20, NULL, "batches per step (1)" },
    { "lr", NUMBER, AT(lr), 1e-12, 1e3, NULL, "largest learning rate (5e-3)" },
    { "wd", NUMBER, AT(wd), 0, 100, NULL, "weight decay (0.1)" },
    { "range", RANGE, AT(lo), -1e6, 1e6, NULL, "predictions between lo,hi, or none (0,5.5)" },
    { "optim", TEXT, AT(optimizer), 0, 0, "adamw lazy adam sgd", "adamw, lazy, adam or sgd (adamw)" },
    { "valid", NUMBER, AT(valid), 1e-9, 1 - 1e-9, NULL, "share of ratings held out (0.2)" },
    { "valid-file", TEXT, AT(valid_file), 0, 0, NULL, "or: a file of ratings held out" },
    { "by", TEXT, AT(by), 0, 0, "title id", "what a film is: its title or its id (title)" },
    { "seed", COUNT, AT(seed), 0, 9e18, NULL, "of weights, split and order (42)" },
    { "seeds", COUNT, AT(seeds), 1, 1000, NULL, "chapter: runs of each row (5)" },
    { "threads", COUNT, AT(threads), 1, 4096, NULL, "for the computation (all cores)" },
    { "log", TEXT, AT(log), 0, 0, NULL, "CSV of the epochs" },
    { "save", TEXT, AT(save), 0, 0, NULL, "model file, written after every epoch" },
    { "resume", TEXT, AT(resume), 0, 0, NULL, "go on with a saved model file" },
    { "user", TEXT, AT(user), 0, 0, NULL, "a user's id" },
    { "item", TEXT, AT(item), 0, 0, NULL, "a film's title (or id)" },
    { "new", TEXT, AT(fresh), 0, 0, NULL, "a new user's ratings: \"Title (1995)=5,Other (1996)=3\"" },
    { "top", COUNT, AT(top), 1, 1000, NULL, "how many films to list (10)" },
    { "out", TEXT, AT(out), 0, 0, NULL, "picture to write" },
    { "bias", FLAG, AT(bias), 0, 0, NULL, "spreadsheet: with biases" },
    { "steps", COUNT, AT(steps), 0, 100000000, NULL, "spreadsheet: steps of gradient descent (0)" },
    { "rate", NUMBER, AT(rate), 0, 1e3, NULL, "spreadsheet: learning rate (0.1)" },
};
enum { KNOWN = sizeof known / sizeof *known };

void options_help(FILE *to)
{
    fputs("movielens COMMAND ...\n\n"
          "  train [RATINGS] [--save F]         learn from ratings\n"
          "  chapter [RATINGS]                  the table of fastbook's chapter 8, and ours\n"
          "  recommend F --user N               films for a user;  --new \"Title=5,Other=3\" for a new one\n"
          "  similar F TITLE                    films whose factors point the same way\n"
          "  biases F                           films liked or disliked whatever the taste\n"
          "  predict F --user U --item I        one rating\n"
          "  map F --out map.png                films in two dimensions\n"
          "  lr-find [RATINGS] --out lr.png     loss against learning rate\n"
          "  spreadsheet DIR [--bias] --steps N --rate R\n"
          "  download                           MovieLens 100K into data/ml-100k\n\n"
          "RATINGS: a file or folder of MovieLens, or a CSV with columns user, item, rating.\n\n", to);
    for (int i = 0; i < KNOWN; i++) fprintf(to, "  --%-12s %s\n", known[i].name, known[i].help);
}

static void unknown(const char *what, const char *typed, const char *near)
{
    ag_fail(NULL, "movielens: unknown %s '%s'; did you mean '%s'? `movielens help` lists all", what, typed, near);
}

static const option *find(const char *name)
{
    const option *near = known;
    for (const option *k = known; k < known + KNOWN; k++) {
        if (!strcmp(k->name, name)) return k;
        if (ag_edit_distance(name, k->name) < ag_edit_distance(name, near->name)) near = k;
    }
    char dashed[40];
    snprintf(dashed, sizeof dashed, "--%s", near->name);
    unknown("option", name, dashed);
    return NULL;
}

static double number(const option *k, const char *text, char **end)
{
    errno = 0;
    const double v = strtod(text, end);
    if (*end == text || errno == ERANGE || isnan(v) || v < k->least || v > k->most)
        ag_fail(NULL, "movielens: --%s takes a number from %g to %g, got '%s'", k->name, k->least, k->most, text);
    return v;
}

static int64_t count(const option *k, const char *text)
{
    char *end;
    errno = 0;
    const long long v = strtoll(text, &end, 10);
    if (end == text || *end || errno || (double)v < k->least || (double)v > k->most)
        ag_fail(NULL, "movielens: --%s takes a whole number from %.0f to %.0f, got '%s'", k->name, k->least, k->most, text);
    return v;
}

static void word(const option *k, const char *text)
{
    const size_t n = strlen(text);
    for (const char *w = k->words; w && *w; w += strcspn(w, " "), w += *w == ' ')
        if (strcspn(w, " ") == n && !strncmp(w, text, n)) return;
    if (k->words) ag_fail(NULL, "movielens: --%s takes one of: %s; got '%s'", k->name, k->words, text);
}

static void read_range(const option *k, const char *text, options *o)
{
    char *end;
    if (!strcmp(text, "none")) {
        o->lo = o->hi = 0;
        return;
    }
    o->lo = number(k, text, &end);
    if (*end != ',') ag_fail(NULL, "movielens: --range takes lo,hi (0,5.5) or none, got '%s'", text);
    o->hi = number(k, end + 1, &end);
    if (*end || !(o->lo < o->hi)) ag_fail(NULL, "movielens: --range takes lo,hi with lo below hi, got '%s'", text);
}

static void read_layers(const option *k, const char *text, options *o)
{
    char *end = (char *)(uintptr_t)text;
    o->layers = (model_layers){ { 0 } };
    for (int i = 0;; i++) {
        if (i == MODEL_MAX_LAYERS) ag_fail(NULL, "movielens: --layers takes at most %d sizes", MODEL_MAX_LAYERS);
        const double v = number(k, end, &end);
        o->layers.size[i] = (int64_t)v;
        if (v != floor(v) || (*end && *end != ',')) ag_fail(NULL, "movielens: --layers takes sizes like 100,50, got '%s'", text);
        if (!*end) return;
        end++;
    }
}

static void set(options *o, const option *k, const char *text)
{
    void *to = (char *)o + k->at;
    char *end;
    switch (k->kind) {
    case TEXT: word(k, text); *(const char **)to = text; break;
    case COUNT: *(int64_t *)to = count(k, text); break;
    case NUMBER:
        *(double *)to = number(k, text, &end);
        if (*end) ag_fail(NULL, "movielens: --%s takes a number, got '%s'", k->name, text);
        break;
    case LAYERS: read_layers(k, text, o); break;
    case RANGE: read_range(k, text, o); break;
    case FLAG: *(bool *)to = true; break;
    }
}

static void positional(options *o, const char *text)
{
    if (!o->ratings) o->ratings = text;
    else if (!o->query) o->query = text;
    else ag_fail(NULL, "movielens: '%s' is one argument too many; titles with spaces need quotation marks", text);
}

options options_parse(int argc, char **argv)
{
    options o = { .model = "bias", .optimizer = "adamw", .by = "title", .factors = 50, .epochs = 5, .batch = 64, .accumulate = 1,
                  .lr = 5e-3, .wd = 0.1, .lo = 0, .hi = 5.5, .valid = 0.2, .seed = 42, .seeds = 5, .rate = 0.1, .top = 10,
                  .layers = { { 100, 50 } }, .argc = argc, .argv = argv };
    if (argc < 2) {
        options_help(stderr);
        exit(2);
    }
    o.command = argv[1];
    if (!strcmp(o.command, "--help") || !strcmp(o.command, "-h")) o.command = "help";
    const char *near = commands[0];
    bool found = false;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        found |= !strcmp(commands[i], o.command);
        if (ag_edit_distance(o.command, commands[i]) < ag_edit_distance(o.command, near)) near = commands[i];
    }
    if (!found) unknown("command", o.command, near);
    for (int i = 2; i < argc; i++) {
        if (strncmp(argv[i], "--", 2)) {
            positional(&o, argv[i]);
            continue;
        }
        char name[40];
        const size_t n = strcspn(argv[i] + 2, "=");
        snprintf(name, sizeof name, "%.*s", (int)(n < 39 ? n : 39), argv[i] + 2);
        const option *k = find(name);
        const char *value = argv[i][2 + n] == '=' ? argv[i] + 3 + n : NULL;
        if (k->kind == FLAG) {
            if (value) ag_fail(NULL, "movielens: --%s takes no value", k->name);
        } else if (!value) {
            if (++i == argc) ag_fail(NULL, "movielens: --%s needs a value: %s", k->name, k->help);
            value = argv[i];
        }
        set(&o, k, value);
    }
    return o;
}

static void append(char **text, const char *word)
{
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=./,";
    const bool plain = *word && strspn(word, safe) == strlen(word);
    char *longer = ag_sprintf(plain ? "%s%s%s" : "%s%s'%s'", *text, **text ? " " : "", word);
    ag_free(*text);
    *text = longer;
}

char *options_resume_command(const options *o)
{
    char *text = ag_strdup("");
    for (int i = 0; i < o->argc; i++) {
        if (!strncmp(o->argv[i], "--resume", 8)) {
            if (!strchr(o->argv[i], '=')) i++;
            continue;
        }
        append(&text, o->argv[i]);
    }
    append(&text, "--resume");
    append(&text, o->save);
    return text;
}
