/* download.c - MovieLens 100K from its makers, with the programs a system has for that. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "core/io.h"
#include "movielens.h"

static const char url[] = "https://files.grouplens.org/datasets/movielens/ml-100k.zip";

/* The exit status, 127 where there is no such program. */
static int run(const char *const *argv)
{
    const pid_t child = fork();
    int status = 0;
    if (child < 0) return 127;
    if (child == 0) {
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    while (waitpid(child, &status, 0) < 0) continue;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int download(const options *o)
{
    const char *const curl[] = { "curl", "-fL", "--connect-timeout", "15", "-o", "data/ml-100k.zip", url, NULL };
    const char *const wget[] = { "wget", "-T", "15", "-t", "2", "-O", "data/ml-100k.zip", url, NULL };
    const char *const unzip[] = { "unzip", "-oq", "data/ml-100k.zip", "-d", "data", NULL };
    const char *const python[] = { "python3", "-m", "zipfile", "-e", "data/ml-100k.zip", "data", NULL };
    (void)o;
    ag_make_folder("data");
    int status = run(curl);
    if (status == 127) status = run(wget);
    if (status == 127) ag_fail(NULL, "movielens: neither curl nor wget is installed; get %s by hand and unpack it in data/", url);
    if (status) ag_fail(NULL, "movielens: %s could not be fetched (status %d); is there a network? `movielens train` runs on "
                        "made-up ratings without", url, status);
    status = run(unzip);
    if (status == 127) status = run(python);
    if (status || !ag_is_folder("data/ml-100k"))
        ag_fail(NULL, "movielens: data/ml-100k.zip could not be unpacked; `apt-get install unzip`, "
                "then `unzip data/ml-100k.zip -d data`");
    printf("data/ml-100k is there; `movielens train` finds it\n");
    return 0;
}
