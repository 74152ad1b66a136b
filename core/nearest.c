#include "core/nearest.h"
#include <ctype.h>
#include <string.h>

enum { LONGEST = 128 };         /* bytes compared */

double ag_edit_distance(const char *typed, const char *name)
{
    double row[LONGEST + 1];
    const size_t n = strnlen(typed, LONGEST), m = strnlen(name, LONGEST);
    for (size_t j = 0; j <= m; j++) row[j] = (double)j;
    for (size_t i = 1; i <= n; i++) {
        double corner = row[0];
        row[0] = (double)i;
        for (size_t j = 1; j <= m; j++) {
            const bool same = tolower((unsigned char)typed[i - 1]) == tolower((unsigned char)name[j - 1]);
            const double swap = corner + !same, insert = row[j - 1] + (i == n ? 0.2 : 1), drop = row[j] + 1;
            corner = row[j];
            row[j] = swap < insert ? swap : insert;
            if (drop < row[j]) row[j] = drop;
        }
    }
    return row[m];
}
