#include "options.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "core/io.h"
#include "core/memory.h"
#include "core/nearest.h"

/* Whether name is one of the words. */
static bool among(const char *words, const char *name)
{
    const size_t n = strlen(name);
    for (; *words; words += strcspn(words, " "), words += *words == ' ')
        if (strcspn(words, " ") == n && !strncmp(words, name, n)) return true;
    return false;
}

/* ---- help ---------------------------------------------------------------------------------------------- */

static int left_width(const command *c)
{
    return (int)(strlen(c->name) + 1 + strlen(c->arguments));
}

static void help_commands(FILE *to, const command *c, const command *one)
{
    int width = 0;
    for (const command *k = c; k->name; k++) width = left_width(k) > width ? left_width(k) : width;
    for (; c->name; c++)
        if (!one || c == one) fprintf(to, "  %s %-*s  %s\n", c->name, width - (int)strlen(c->name) - 1, c->arguments, c->help);
}

static void help_options(FILE *to, const program *p, const command *one)
{
    for (const option *k = p->options; k->name; k++) {
        if (one && !among(one->options, k->name)) continue;
        fprintf(to, "  --%-13s %s%s\n", k->name, k->help, one && among(one->needed, k->name) ? "; needed" : "");
    }
}

static void help(FILE *to, const program *p, const command *one)
{
    fprintf(to, "%s COMMAND ...\n\n", p->name);
    help_commands(to, p->commands, one);
    if (!one || *one->options) fputs("\n", to);
    if (!one && *p->notes) fprintf(to, "%s\n\n", p->notes);
    help_options(to, p, one);
    if (!one) fprintf(to, "\n`%s help COMMAND` lists the options that it takes.\n", p->name);
}

/* ---- names --------------------------------------------------------------------------------------------- */

static const command *find_command(const program *p, const char *name)
{
    const command *near = p->commands;
    for (const command *c = p->commands; c->name; c++) {
        if (!strcmp(c->name, name)) return c;
        if (ag_edit_distance(name, c->name) < ag_edit_distance(name, near->name)) near = c;
    }
    ag_fail(NULL, "%s: unknown command '%s'; did you mean '%s'? `%s help` lists all", p->name, name, near->name, p->name);
}

int options_help(const command_line *line)
{
    const program *p = line->program;
    help(stdout, p, line->arguments ? find_command(p, line->argument[0]) : NULL);
    return 0;
}

static const option *find_option(const program *p, const command *c, const char *name)
{
    const option *near = NULL;
    for (const option *k = p->options; k->name; k++) {
        const bool takes = among(c->options, k->name);
        if (!strcmp(k->name, name) && !takes)
            ag_fail(NULL, "%s: %s takes no --%s; `%s help %s` lists its options", p->name, c->name, name, p->name, c->name);
        if (!strcmp(k->name, name)) return k;
        if (takes && (!near || ag_edit_distance(name, k->name) < ag_edit_distance(name, near->name))) near = k;
    }
    if (!near) ag_fail(NULL, "%s: unknown option '--%s'; %s takes none", p->name, name, c->name);
    ag_fail(NULL, "%s: unknown option '--%s'; did you mean '--%s'? `%s help %s` lists all", p->name, name, near->name,
            p->name, c->name);
}

/* ---- values -------------------------------------------------------------------------------------------- */

static void out_of_range(const program *p, const option *k, const char *text)
{
    const bool whole = k->kind == COUNT || k->kind == COUNTS;
    ag_fail(NULL, "%s: --%s takes %s %.10g to %.10g, got '%s'", p->name, k->name,
            k->kind == COUNTS ? "whole numbers with commas between, from" : whole ? "a whole number from" : "a number from",
            k->least, k->most, text);
}

double options_number(const program *p, const option *k, const char *text, char **end)
{
    errno = 0;
    const double v = strtod(text, end);
    if (*end == text || errno == ERANGE || !(v >= k->least && v <= k->most)) out_of_range(p, k, text);
    return v;
}

static int64_t count(const program *p, const option *k, const char *text, char **end)
{
    errno = 0;
    const long long v = strtoll(text, end, 10);
    if (*end == text || errno || (double)v < k->least || (double)v > k->most) out_of_range(p, k, text);
    return v;
}

static int64_t bytes(const program *p, const option *k, const char *text)
{
    const int64_t v = ag_parse_bytes(text);
    if (v < 0) ag_fail(NULL, "%s: --%s takes bytes, or a number with K, M, G or T; got '%s'", p->name, k->name, text);
    if ((double)v < k->least || (double)v > k->most) out_of_range(p, k, text);
    return v;
}

static void counts(const program *p, const option *k, const char *text, int64_t *to)
{
    char *end = (char *)(uintptr_t)text;
    memset(to, 0, (size_t)k->room * sizeof *to);
    for (int i = 0;; i++, end++) {
        if (i == k->room) ag_fail(NULL, "%s: --%s takes at most %d numbers, got '%s'", p->name, k->name, k->room, text);
        to[i] = count(p, k, end, &end);
        if (!*end) return;
        if (*end != ',') out_of_range(p, k, text);
    }
}

static void set(const program *p, const option *k, const char *text, options *o)
{
    void *to = (char *)o + k->at;
    char *end = NULL;
    switch (k->kind) {
    case TEXT:
        if (k->words && !among(k->words, text))
            ag_fail(NULL, "%s: --%s takes one of: %s; got '%s'", p->name, k->name, k->words, text);
        *(const char **)to = text;
        break;
    case COUNT: *(int64_t *)to = count(p, k, text, &end); break;
    case NUMBER: *(double *)to = options_number(p, k, text, &end); break;
    case BYTES: *(int64_t *)to = bytes(p, k, text); break;
    case FLAG: *(bool *)to = true; break;
    case COUNTS: counts(p, k, text, to); break;
    case OWN: k->read(p, k, text, o); break;
    }
    if (end && *end) out_of_range(p, k, text);
}

/* ---- the line ------------------------------------------------------------------------------------------ */

/* Reads argv[*i] and, where its value stands behind it, the next. */
static void read_option(const command_line *line, int *i, options *o)
{
    const program *p = line->program;
    char name[40];
    const char *text = line->argv[*i] + 2;
    const size_t n = strcspn(text, "=");
    snprintf(name, sizeof name, "%.*s", (int)(n < 39 ? n : 39), text);
    const option *k = find_option(p, line->command, name);
    const char *value = text[n] == '=' ? text + n + 1 : NULL;
    if (k->kind == FLAG && value) ag_fail(NULL, "%s: --%s takes no value", p->name, k->name);
    if (k->kind != FLAG && !value) {
        if (++*i == line->argc) ag_fail(NULL, "%s: --%s needs a value: %s", p->name, k->name, k->help);
        value = line->argv[*i];
    }
    set(p, k, value, o);
}

static void check(const command_line *line, const options *o)
{
    const program *p = line->program;
    const command *c = line->command;
    if (line->arguments < c->least)
        ag_fail(NULL, "%s: %s needs %s; `%s help %s` says more", p->name, c->name, c->arguments, p->name, c->name);
    if (line->arguments > c->most)
        ag_fail(NULL, "%s: '%s' is one argument too many; %s takes %s%s", p->name, line->argument[c->most], c->name,
                *c->arguments ? c->arguments : "none", *c->arguments ? " (what has spaces needs quotation marks)" : "");
    for (const option *k = p->options; k->name; k++)
        if (among(c->needed, k->name) && !*(const char *const *)(const void *)((const char *)o + k->at))
            ag_fail(NULL, "%s: %s needs --%s: %s", p->name, c->name, k->name, k->help);
}

static bool asks_for_help(const char *text)
{
    return !strcmp(text, "--help") || !strcmp(text, "-h");
}

command_line options_parse(const program *p, int argc, char **argv, options *o)
{
    if (argc < 2) {
        help(stderr, p, NULL);
        exit(2);
    }
    const char **argument = ag_alloc(argc + 2, sizeof *argument);
    ag_defer(ag_free, argument);
    command_line line = { p, find_command(p, asks_for_help(argv[1]) ? "help" : argv[1]), 0, argument, argc, argv };
    for (int i = 2; i < argc; i++) {
        if (asks_for_help(argv[i])) {
            help(stdout, p, line.command);
            exit(0);
        }
        if (!strncmp(argv[i], "--", 2)) read_option(&line, &i, o);
        else argument[line.arguments++] = argv[i];
    }
    check(&line, o);
    return line;
}

void options_require_writable(const command_line *line, const char *path)
{
    AG_SCOPE;
    if (path && ag_is_folder(path)) ag_fail(NULL, "%s: cannot write %s: it is a folder; name a file", line->program->name, path);
    if (path) ag_file_create_(NULL, path);          /* goes with the scope */
}

/* Adds a word as a shell reads it. */
static void append(char **text, const char *word)
{
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=./,";
    const bool plain = *word && strspn(word, safe) == strlen(word);
    char *to = ag_realloc(*text, (int64_t)(strlen(*text) + 4 * strlen(word) + 4), 1);
    *text = to;
    to += strlen(to);
    if (to != *text) *to++ = ' ';
    if (!plain) *to++ = '\'';
    for (; *word; word++) {
        *to++ = *word;
        if (*word == '\'') memcpy(to, "\\''", 3), to += 3;      /* it's -> 'it'\''s' */
    }
    if (!plain) *to++ = '\'';
    *to = 0;
}

char *options_resume_command(const command_line *line, const char *save)
{
    char *text = ag_strdup("");
    for (int i = 0; i < line->argc; i++) {
        if (!strncmp(line->argv[i], "--resume", 8)) {
            if (!strchr(line->argv[i], '=')) i++;
            continue;
        }
        append(&text, line->argv[i]);
    }
    append(&text, "--resume");
    append(&text, save);
    return text;
}
