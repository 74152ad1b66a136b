/* leaf.c - a picture is a canvas on which blades are laid one over another. A blade is a parabola with a width: each pixel
 * asks where on the blade it lies, s along it from 0 (base) to 1 (tip) and v across from -1 to 1, and what colour is there.
 * Lengths are in heights of the picture. */
#include "leaf.h"
#include <math.h>
#include <string.h>
#include "core/memory.h"
#include "core/random.h"

typedef struct { double r, g, b; } colour;

typedef struct {
    colour green, rib, margin;
    double width;                       /* half of it, at the widest */
    double taper;                       /* large: broad until shortly before the tip */
    double veins, relief;               /* how many, how deep */
    double rib_width, margin_width, stripe, bands;
} variety;

const char *const leaf_variety[LEAF_VARIETIES] = { "ADT45", "AndraPonni", "AtchayaPonni", "IR20", "KarnatakaPonni",
                                                   "Onthanel", "Ponni", "RR", "Surya", "Zonal" };
#define WHITE { .88, .92, .78 }
#define PALE { .72, .84, .42 }
#define PURPLE { .42, .14, .34 }
#define RED { .62, .22, .16 }
static const variety varieties[LEAF_VARIETIES] = {
    { { .36, .60, .16 }, WHITE, WHITE, .080, 3, 5, .10, .07, 0, 0, 0 },
    { { .12, .40, .14 }, PALE, PALE, .125, 5, 9, .16, .05, 0, 0, 0 },
    { { .62, .74, .18 }, PALE, PALE, .055, 2, 3, .08, .06, 0, 0, 0 },
    { { .30, .56, .22 }, PURPLE, PALE, .060, 2.4, 4, .08, .13, 0, 0, 0 },
    { { .22, .50, .38 }, WHITE, WHITE, .090, 2.4, 12, .42, .04, 0, 0, 0 },
    { { .34, .62, .20 }, PALE, PURPLE, .085, 4, 5, .08, .05, .20, 0, 0 },
    { { .46, .74, .24 }, PALE, PALE, .125, 2, 4, .05, .03, 0, 0, 0 },
    { { .34, .46, .18 }, RED, RED, .080, 3, 6, .14, .10, .08, 0, 0 },
    { { .30, .58, .20 }, WHITE, WHITE, .100, 4, 5, .08, .05, 0, .55, 0 },
    { { .34, .62, .18 }, PALE, PALE, .095, 3, 5, .08, .06, 0, 0, .32 },
};

const char *const leaf_disease[LEAF_DISEASES] = {
    "bacterial_leaf_blight", "bacterial_leaf_streak", "bacterial_panicle_blight", "blast", "brown_spot",
    "dead_heart", "downy_mildew", "hispa", "normal", "tungro" };
enum { BLIGHT, STREAK, PANICLE, BLAST, SPOT, DEAD_HEART, MILDEW, HISPA, NORMAL, TUNGRO };

typedef struct { double s, v, rs, rv; } lesion;
enum { LESIONS = 36 };

typedef struct {
    double x, y, angle, length, bend, width, soft;
    variety look;
    int disease;
    double severity;                    /* 0 .. 1 */
    uint64_t key;
    int lesions;
    lesion lesion[LESIONS];
} blade;

typedef struct { int64_t w, h; float *pixel; ag_rng rng; } canvas;

/* ---- numbers and colours ------------------------------------------------------------------------------- */

static double between(canvas *c, double lo, double hi) { return lo + (hi - lo) * ag_rng_uniform(&c->rng); }
static double clamp(double v) { return v < 0 ? 0 : v > 1 ? 1 : v; }

static double smooth(double from, double to, double v)
{
    const double t = clamp((v - from) / (to - from));
    return t * t * (3 - 2 * t);
}

static colour mix(colour a, colour b, double t)
{
    return (colour){ a.r + t * (b.r - a.r), a.g + t * (b.g - a.g), a.b + t * (b.b - a.b) };
}

static colour times(colour a, double f) { return (colour){ a.r * f, a.g * f, a.b * f }; }

static double lattice(uint64_t key, int64_t x, int64_t y)
{
    uint64_t h = key ^ ((uint64_t)x * 0x9e3779b97f4a7c15u) ^ ((uint64_t)y * 0xc2b2ae3d27d4eb4fu);
    h = (h ^ h >> 29) * 0xbf58476d1ce4e5b9u, h = (h ^ h >> 32) * 0x94d049bb133111ebu;
    return (double)(h >> 40) * 0x1p-24;
}

/* Smooth noise from 0 to 1 with features of size 1. (value noise) */
static double noise(uint64_t key, double x, double y)
{
    const double fx = floor(x), fy = floor(y), u = smooth(0, 1, x - fx), v = smooth(0, 1, y - fy);
    const int64_t i = (int64_t)fx, j = (int64_t)fy;
    const double top = lattice(key, i, j) * (1 - u) + lattice(key, i + 1, j) * u;
    const double low = lattice(key, i, j + 1) * (1 - u) + lattice(key, i + 1, j + 1) * u;
    return top * (1 - v) + low * v;
}

/* ---- diseases ------------------------------------------------------------------------------------------ */

static const colour straw = { .80, .70, .42 }, brown = { .36, .20, .08 }, halo = { .82, .74, .22 },
                    ash = { .74, .70, .62 }, orange = { .88, .62, .10 }, milk = { .90, .91, .78 };

static colour round_spot(colour c, double d)        /* d: 1 at the lesion's edge */
{
    c = mix(c, halo, .8 * (1 - smooth(1, 1.7, d)));
    return mix(c, d < .45 ? mix(brown, ash, .35) : brown, 1 - smooth(.75, 1.05, d));
}

static colour spindle(colour c, double d)
{
    c = mix(c, brown, 1 - smooth(.95, 1.2, d));
    return mix(c, ash, 1 - smooth(.5, .75, d));
}

static colour with_lesions(const blade *b, double s, double v, colour c)
{
    for (int i = 0; i < b->lesions; i++) {
        const lesion *l = &b->lesion[i];
        const double ds = fabs(s - l->s) / l->rs, dv = fabs(v - l->v) / l->rv, d = sqrt(ds * ds + dv * dv);
        if (d > 2) continue;
        switch (b->disease) {
        case SPOT: c = round_spot(c, d); break;
        case BLAST: c = spindle(c, .6 * (ds + dv) + .4 * d); break;
        case STREAK: c = mix(c, d < .6 ? brown : orange, .9 * (1 - smooth(.7, 1.1, d))); break;
        case HISPA: c = mix(c, milk, .9 * (1 - smooth(.7, 1.05, ds > dv ? ds : dv))); break;
        default: break;
        }
    }
    return c;
}

static colour diseased(const blade *b, double s, double v, colour c)
{
    const double grain = noise(b->key, 9 * s, 3 * v);
    switch (b->disease) {
    case BLIGHT: {
        const double edge = 1 - b->severity * (.25 + .75 * s) * (.5 + noise(b->key + 7, 7 * s, v > 0));
        return mix(c, mix(straw, ash, .5 * grain), smooth(edge - .06, edge + .06, fabs(v)));
    }
    case TUNGRO: return mix(c, mix(orange, halo, grain), .92 * smooth(.75 - .75 * b->severity, 1.15 - .6 * b->severity, s));
    case DEAD_HEART: return mix(mix(straw, brown, .45 * grain), c, .12);
    case MILDEW: {
        const double patch = .6 * noise(b->key, 14 * s, 1.6 * v) + .4 * noise(b->key + 3, 41 * s, 5 * v);
        return mix(c, milk, .8 * smooth(.42, .72, patch + .12 * b->severity));
    }
    default: return with_lesions(b, s, v, c);
    }
}

/* ---- one blade ----------------------------------------------------------------------------------------- */

static double half_width(const blade *b, double s)
{
    return b->width * (.6 + .4 * smooth(0, .4, s)) * pow(1 - pow(s, b->look.taper), .8);
}

static colour healthy(const blade *b, double s, double v)
{
    const variety *k = &b->look;
    const double a = fabs(v);
    colour c = times(k->green, .88 + .3 * noise(b->key + 1, 5 * s, 1.5 * v) * (1 - .4 * s));
    c = times(c, 1 - k->relief * pow(fabs(cos(M_PI * k->veins * v)), 4));
    c = times(c, 1 + k->bands * sin(2 * M_PI * 9 * s));
    c = mix(c, milk, k->stripe * (1 - smooth(.08, .16, fabs(a - .5))));
    if (k->margin_width > 0) c = mix(c, k->margin, .9 * smooth(1 - k->margin_width - .06, 1 - k->margin_width + .06, a));
    return mix(c, k->rib, .85 * (1 - smooth(.6 * k->rib_width, 1.4 * k->rib_width, a)));
}

static colour shaded(const blade *b, double s, double v)
{
    colour c = healthy(b, s, v);
    if (b->disease != NORMAL) c = diseased(b, s, v, c);
    const double fold = v < 0 ? .86 : 1.06, round = 1.05 - .22 * v * v;
    return times(c, fold * round * (.92 + .2 * noise(b->key + 2, 3 * s, .5)));
}

static void blend(float *to, colour c, double cover)
{
    to[0] += (float)(cover * (c.r - to[0])), to[1] += (float)(cover * (c.g - to[1])), to[2] += (float)(cover * (c.b - to[2]));
}

static void lay(canvas *c, const blade *b)
{
    const double dx = sin(b->angle), dy = -cos(b->angle), pixel = 1.0 / (double)c->h;
    const double soft = b->soft > pixel ? b->soft : pixel;
    float *to = c->pixel;
    for (int64_t y = 0; y < c->h; y++)
        for (int64_t x = 0; x < c->w; x++, to += 3) {
            const double px = ((double)x + .5) * pixel - b->x, py = ((double)y + .5) * pixel - b->y;
            const double s = (px * dx + py * dy) / b->length;
            if (s <= 0 || s >= 1) continue;
            const double slope = 2 * b->bend * s / b->length, t = -px * dy + py * dx - b->bend * s * s;
            if (t * t > (b->width + soft) * (b->width + soft) * (1 + slope * slope)) continue;
            const double off = t / sqrt(1 + slope * slope), w = half_width(b, s);
            const double cover = clamp(.5 + (w - fabs(off)) / soft) * smooth(0, .02, w / b->width);
            if (cover > 0) blend(to, shaded(b, s, w > 0 ? fmax(-1, fmin(1, off / w)) : 0), cover);
        }
}

/* ---- what a picture is made of ------------------------------------------------------------------------- */

static void scatter_lesions(canvas *c, blade *b)
{
    const double n = 6 + 22 * b->severity;
    b->lesions = b->disease == BLAST ? 3 + (int)(n / 3) : b->disease == HISPA ? 6 + (int)(n / 2) : (int)n;
    for (int i = 0; i < b->lesions; i++) {
        lesion *l = &b->lesion[i];
        *l = (lesion){ between(c, .08, .92), between(c, -.8, .8), 0, 0 };
        const double size = between(c, .7, 1.3) * .08 / b->width;       /* of about one size whatever the blade's width */
        switch (b->disease) {
        case SPOT: l->rs = .022 * size / b->length * b->width / .08 * 1.2, l->rv = .20 * size; break;
        case BLAST: l->rs = .075 / b->length * between(c, .8, 1.3), l->rv = .42 * size; break;
        case STREAK: l->rs = between(c, .05, .14), l->rv = .075 * size; break;
        default: l->rs = between(c, .06, .16), l->rv = .075 * size, l->v = round(l->v * 5) / 5; break;
        }
    }
}

static void background(canvas *c)
{
    const uint64_t key = ag_rng_u64(&c->rng);
    const colour field = { between(c, .10, .30), between(c, .24, .42), between(c, .05, .16) };
    const double wet = between(c, -.6, 1);
    const colour ground = wet > .4 ? (colour){ .46, .46, .42 } : (colour){ .26, .19, .12 };
    for (int64_t i = 0; i < c->w * c->h; i++) {
        const double x = (double)(i % c->w) / (double)c->h, y = (double)(i / c->w) / (double)c->h;
        const double fog = noise(key, 4 * x, 2.5 * y), fine = noise(key + 1, 28 * x, 9 * y);
        const colour k = times(mix(field, ground, smooth(.3, 1.3, y + .5 * fog)), .7 + .5 * fog + .25 * fine);
        c->pixel[3 * i] = (float)k.r, c->pixel[3 * i + 1] = (float)k.g, c->pixel[3 * i + 2] = (float)k.b;
    }
}

/* Neighbours out of focus: of the same variety, healthy. */
static void neighbours(canvas *c, const variety *look, int n)
{
    for (int i = 0; i < n; i++) {
        const double depth = (i + .5) / n;
        blade b = { .x = between(c, -.1, .85), .y = between(c, .95, 1.3), .angle = between(c, -.5, .5), .disease = NORMAL,
                    .length = between(c, .6, 1.2), .bend = between(c, -.3, .3), .look = *look,
                    .soft = .035 * (1 - depth) + .008, .key = ag_rng_u64(&c->rng) };
        b.width = look->width * (.25 + .3 * depth);
        const double dim = .35 + .4 * depth;
        b.look.green = times(look->green, dim), b.look.rib = times(look->rib, dim), b.look.margin = times(look->margin, dim);
        lay(c, &b);
    }
}

/* An arching stem with grains, withered. */
static void panicle(canvas *c, const blade *stem)
{
    static const variety grain = { { .70, .58, .34 }, { .80, .70, .46 }, { .42, .26, .12 }, .02, 2, 2, .1, .2, .2, 0, 0 };
    blade b = *stem;
    b.width = .012, b.length *= .9, b.disease = NORMAL, b.look.green = (colour){ .62, .60, .28 };
    lay(c, &b);
    const double dx = sin(b.angle), dy = -cos(b.angle);
    for (int i = 0; i < 46; i++) {
        const double s = between(c, .35, 1), side = i % 2 ? 1 : -1, t = b.bend * s * s + side * between(c, .005, .04);
        blade g = { .x = b.x + b.length * s * dx - t * dy, .y = b.y + b.length * s * dy + t * dx, .disease = NORMAL,
                    .angle = b.angle + 2 * b.bend * s / b.length + side * between(c, .2, .9), .length = between(c, .05, .075),
                    .width = between(c, .011, .016), .look = grain, .key = ag_rng_u64(&c->rng) };
        g.look.green = mix(grain.green, brown, between(c, 0, .75));
        lay(c, &g);
    }
}

static void subject(canvas *c, int disease, const variety *look)
{
    const int n = 2 + (int)between(c, 0, 2);
    const double lean = between(c, -.55, .55);
    for (int i = 0; i < n; i++) {
        const double scale = between(c, .85, 1.2);
        blade b = { .x = between(c, .15, .6) + .18 * (i - .5 * (n - 1)), .y = between(c, .98, 1.12),
                    .bend = between(c, -.22, .22),
                    .angle = lean + between(c, -.25, .25) + .3 * (i - .5 * (n - 1)), .length = between(c, 1, 1.35),
                    .width = look->width * scale, .look = *look, .key = ag_rng_u64(&c->rng), .severity = between(c, .35, 1) };
        b.x -= .4 * b.length * sin(b.angle);        /* the middle of the blade stays in the picture */
        b.disease = disease == DEAD_HEART && i < n - 1 ? NORMAL : disease == PANICLE ? NORMAL : disease;
        if (disease == SPOT || disease == BLAST || disease == STREAK || disease == HISPA) scatter_lesions(c, &b);
        lay(c, &b);
        if (disease == PANICLE && i == n - 1) b.angle *= .5, panicle(c, &b);
    }
}

/* Exposure, white balance, light from one side, the sensor's noise. */
static void develop(canvas *c, data_image *image)
{
    const double gain = between(c, .85, 1.45), warm = between(c, -.08, .08), tilt = between(c, -.35, .35);
    const double drop = between(c, -.2, .3);
    const double balance[3] = { 1 + warm, 1, 1 - warm };
    const uint64_t key = ag_rng_u64(&c->rng);
    for (int64_t i = 0; i < c->w * c->h; i++) {
        const double x = (double)(i % c->w) / (double)c->w - .5, y = (double)(i / c->w) / (double)c->h - .5;
        const double light = gain * (1 + tilt * x - drop * y);
        for (int k = 0; k < 3; k++) {
            const double grit = .03 * (lattice(key, i, k) - .5);
            image->pixels[3 * i + k] = (uint8_t)(255 * clamp(c->pixel[3 * i + k] * light * balance[k] + grit) + .5);
        }
    }
}

void leaf_paint(data_image *image, int disease, int of, uint64_t key)
{
    canvas c = { image->width, image->height, ag_alloc(3 * image->width * image->height, sizeof(float)), { .seed = key } };
    variety look = varieties[of];
    look.width *= between(&c, .9, 1.1), look.green = times(look.green, between(&c, .88, 1.12));
    background(&c);
    neighbours(&c, &look, 12);
    subject(&c, disease, &look);
    develop(&c, image);
    ag_free(c.pixel);
}
