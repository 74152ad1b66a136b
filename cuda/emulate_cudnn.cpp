/* cuda/emulate_cudnn.cpp - in the place of cuDNN in the emulation: descriptors that refuse what its reference manual refuses, a
 * ranked list of engines most of which must not be taken, and plain loops. An engine that breaks a promise of cuda/cudnn.h
 * writes NaN. Paddings that differ are not supported; large strides only by the second mode of the heuristics. */
#include "cuda/emulate_cudnn.h"
#include <set>
#include <string>

namespace {
using namespace ag_emulate_dnn;

enum { SUCCESS = 0, NOT_INITIALIZED = 1001, BAD_PARAM = 2000, BAD_POINTER = 2003, NOT_FINALIZED = 2004, NO_PADDING = 3011,
       INTERNAL = 4000, EXECUTION_FAILED = 5000 };

struct attribute {
    int type;
    int64_t count;
    std::vector<char> bytes;
};

struct engine {
    int64_t index;
    std::vector<int> notes;
    int64_t workspace;
    int finalizes;                                      /* the status of its plans */
};

struct desc {
    int type;
    bool final;
    std::map<int, attribute> set;
    engine of;                                          /* a configuration's, an engine's */
};

std::set<desc *> alive;
bool there = true;
int begins = SUCCESS;
int64_t last_engine;
cudaStream_t stream;
std::string complaint;

int complain(int status, const char *what)
{
    complaint = what;
    return status;
}

/* What a descriptor must have before it is finalized: hundreds and, as bits, attributes behind them. */
struct rule { int type, base; std::vector<int> required; };
const rule rules[] = {
    { AG_DNN_CONVOLUTION, 100, { 0, 1, 2, 3, 4, 5, 6 } }, { AG_DNN_HEURISTICS, 200, { 0, 1 } },
    { AG_DNN_PLAN, 400, { 0, 1 } }, { AG_DNN_FORWARD, 700, { 0, 1, 2, 3, 4, 5 } },
    { AG_DNN_INPUT_GRADIENT, 700, { 6, 7, 8, 9, 10, 11 } }, { AG_DNN_WEIGHT_GRADIENT, 700, { 12, 13, 14, 15, 16, 17 } },
    { AG_DNN_GRAPH, 800, { 0, 1 } }, { AG_DNN_TENSOR, 900, { 0, 1, 2, 3, 6 } }, { AG_DNN_PACK, 1000, { 0, 1, 3 } },
    { AG_DNN_MATMUL, 1500, { 0 } }, { AG_DNN_MATMUL_OF, 1500, { 20, 21, 22, 23 } }, { AG_DNN_POINTWISE, 0, { 0, 1 } },
    { AG_DNN_POINTWISE_OF, 700, { 50, 51, 53 } }, { AG_DNN_REDUCTION, 1600, { 0, 1 } },
    { AG_DNN_REDUCTION_OF, 1600, { 10, 11, 12 } }, { AG_DNN_RESHAPE_OF, 2200, { 0, 1 } },
};

const rule *rule_of(int type)
{
    for (const rule &r : rules)
        if (r.type == type) return &r;
    return nullptr;
}

size_t size_of(int type)
{
    switch (type) {
    case AG_DNN_HANDLE: case AG_DNN_INT64: case AG_DNN_POINTER: case AG_DNN_DESCRIPTOR: return 8;
    case AG_DNN_BOOL: case AG_DNN_CHAR: return 1;
    default: return 4;
    }
}

bool lives(ag_dnn_desc d) { return alive.count((desc *)d) != 0; }

template <class T> const T *values(const desc *d, int name) { return (const T *)d->set.at(name).bytes.data(); }
template <class T> T value(const desc *d, int name) { return *values<T>(d, name); }
const desc *child(const desc *d, int name) { return (const desc *)value<ag_dnn_desc>(d, name); }

/* ---- the convolution of a graph -------------------------------------------------------------------------- */

struct geometry {
    int way;
    tensor x, w, y;
    int64_t stride[2], before[2], after[2], dilation[2];
    float alpha, beta;
};

tensor tensor_of(const desc *d)
{
    tensor t;
    std::copy_n(values<int64_t>(d, AG_DNN_TENSOR_SIZES), 4, t.size);
    std::copy_n(values<int64_t>(d, AG_DNN_TENSOR_STRIDES), 4, t.stride);
    t.type = value<int>(d, AG_DNN_TENSOR_TYPE), t.alignment = value<int64_t>(d, AG_DNN_TENSOR_ALIGNMENT);
    t.id = value<int64_t>(d, AG_DNN_TENSOR_ID), t.passing = value<bool>(d, AG_DNN_TENSOR_VIRTUAL);
    t.by_value = d->set.count(AG_DNN_TENSOR_BY_VALUE) && value<bool>(d, AG_DNN_TENSOR_BY_VALUE);
    return t;
}

geometry geometry_of(const desc *operation)
{
    const int base = operation->type == AG_DNN_FORWARD ? AG_DNN_FORWARD_ALPHA
                   : operation->type == AG_DNN_INPUT_GRADIENT ? AG_DNN_INPUT_ALPHA : AG_DNN_WEIGHT_ALPHA;
    const desc *conv = child(operation, base + 2);
    geometry g = {};
    g.way = operation->type;
    g.w = tensor_of(child(operation, base + 3));
    g.x = tensor_of(child(operation, base + 4));
    g.y = tensor_of(child(operation, base + 5));
    std::copy_n(values<int64_t>(conv, AG_DNN_CONV_STRIDES), 2, g.stride);
    std::copy_n(values<int64_t>(conv, AG_DNN_CONV_DILATIONS), 2, g.dilation);
    std::copy_n(values<int64_t>(conv, AG_DNN_CONV_PRE_PADDINGS), 2, g.before);
    std::copy_n(values<int64_t>(conv, AG_DNN_CONV_POST_PADDINGS), 2, g.after);
    g.alpha = value<float>(operation, base), g.beta = value<float>(operation, base + 1);
    return g;
}

geometry geometry_of_graph(const desc *graph) { return geometry_of(child(graph, AG_DNN_GRAPH_OPERATIONS)); }

bool consistent(const geometry &g)
{
    bool good = g.y.size[0] == g.x.size[0] && g.y.size[1] == g.w.size[0] && g.x.size[1] == g.w.size[1];
    for (int a = 0; a < 2; a++) {
        const int64_t reach = g.dilation[a] * (g.w.size[2 + a] - 1) + 1;
        good = good && g.y.size[2 + a] == (g.x.size[2 + a] + g.before[a] + g.after[a] - reach) / g.stride[a] + 1;
    }
    for (int a = 0; a < 4; a++) good = good && g.x.size[a] > 0 && g.w.size[a] > 0 && g.y.size[a] > 0;
    return good && g.x.type == g.w.type && g.y.type == g.x.type;
}

/* f(place in x, in w, in y) of every product */
template <class F> void each_product(const geometry &g, F f)
{
    for (int64_t n = 0; n < g.y.size[0]; n++)
        for (int64_t oh = 0; oh < g.y.size[2]; oh++)
            for (int64_t ow = 0; ow < g.y.size[3]; ow++)
                for (int64_t kh = 0; kh < g.w.size[2]; kh++)
                    for (int64_t kw = 0; kw < g.w.size[3]; kw++) {
                        const int64_t h = oh * g.stride[0] - g.before[0] + kh * g.dilation[0];
                        const int64_t w = ow * g.stride[1] - g.before[1] + kw * g.dilation[1];
                        if (h < 0 || h >= g.x.size[2] || w < 0 || w >= g.x.size[3]) continue;
                        for (int64_t o = 0; o < g.w.size[0]; o++)
                            for (int64_t i = 0; i < g.w.size[1]; i++)
                                f(place(g.x, n, i, h, w), place(g.w, o, i, kh, kw), place(g.y, n, o, oh, ow));
                    }
}

template <class T> void convolve(const geometry &g, T *x, T *w, T *y, bool broken)
{
    T *to = g.way == AG_DNN_FORWARD ? y : g.way == AG_DNN_INPUT_GRADIENT ? x : w;
    const int64_t count = elements(g.way == AG_DNN_FORWARD ? g.y : g.way == AG_DNN_INPUT_GRADIENT ? g.x : g.w);
    std::vector<float> sum((size_t)count);
    each_product(g, [&](int64_t p, int64_t q, int64_t r) {
        if (g.way == AG_DNN_FORWARD) sum[(size_t)r] += ag_load(x[p]) * ag_load(w[q]);
        else if (g.way == AG_DNN_INPUT_GRADIENT) sum[(size_t)p] += ag_load(y[r]) * ag_load(w[q]);
        else sum[(size_t)q] += ag_load(x[p]) * ag_load(y[r]);
    });
    for (int64_t i = 0; i < count; i++) {
        const float kept = g.beta != 0 ? g.beta * ag_load(to[i]) : 0;
        ag_store(&to[i], broken ? NAN : g.alpha * sum[(size_t)i] + kept);
    }
}

/* ---- the operations of a fused graph --------------------------------------------------------------------- */

bool is_convolution(const desc *graph)
{
    const int type = child(graph, AG_DNN_GRAPH_OPERATIONS)->type;
    return type == AG_DNN_FORWARD || type == AG_DNN_INPUT_GRADIENT || type == AG_DNN_WEIGHT_GRADIENT;
}

operation operation_of(const desc *d)
{
    operation o = {};
    o.type = d->type;
    const int x = d->type == AG_DNN_MATMUL_OF ? AG_DNN_MATMUL_A : d->type == AG_DNN_POINTWISE_OF ? AG_DNN_POINTWISE_X
                : d->type == AG_DNN_REDUCTION_OF ? AG_DNN_REDUCTION_X : AG_DNN_RESHAPE_X;
    o.binary = d->type == AG_DNN_MATMUL_OF || (d->type == AG_DNN_POINTWISE_OF && d->set.count(AG_DNN_POINTWISE_B));
    o.x = tensor_of(child(d, x));
    if (o.binary) o.z = tensor_of(child(d, x + 1));
    o.y = tensor_of(child(d, x + (d->type == AG_DNN_MATMUL_OF || d->type == AG_DNN_POINTWISE_OF ? 2 : 1)));
    if (d->type == AG_DNN_POINTWISE_OF) o.mode = value<int>(child(d, AG_DNN_POINTWISE_DESC), AG_DNN_POINTWISE_MODE_OF);
    if (d->type == AG_DNN_REDUCTION_OF) o.mode = value<int>(child(d, AG_DNN_REDUCTION_DESC), AG_DNN_REDUCTION_OPERATOR);
    return o;
}

std::vector<operation> operations_of(const desc *graph)
{
    std::vector<operation> list;
    for (int64_t i = 0; i < graph->set.at(AG_DNN_GRAPH_OPERATIONS).count; i++)
        list.push_back(operation_of((const desc *)values<ag_dnn_desc>(graph, AG_DNN_GRAPH_OPERATIONS)[i]));
    return list;
}

/* ---- heuristics ------------------------------------------------------------------------------------------ */

/* Which configurations of a mode there are, best first. */
std::vector<engine> ranked(const desc *graph, int mode)
{
    const bool convolution = is_convolution(graph);
    const geometry g = convolution ? geometry_of_graph(graph) : geometry();
    const int64_t huge = (int64_t)1 << 40, some = 4 * elements(g.w) + 8;
    const bool narrow = !convolution || g.x.type == AG_DNN_BF16, later = g.stride[0] > 2;
    if ((mode == AG_DNN_MODE_A) == later) return {};
    return {
        { 7, { AG_DNN_TENSOR_CORE, AG_DNN_NONDETERMINISTIC }, 0, SUCCESS },
        { 8, { AG_DNN_TENSOR_CORE, AG_DNN_WINOGRAD }, 0, SUCCESS },
        { 9, { AG_DNN_TENSOR_CORE }, huge, SUCCESS },
        { 10, { AG_DNN_TENSOR_CORE }, 0, 3002 },
        { 11, { AG_DNN_TENSOR_CORE }, 0, AG_DNN_NOT_COMPILED },
        { 12, {}, narrow ? 0 : huge, SUCCESS },
        { 13, { AG_DNN_TENSOR_CORE }, narrow ? some : 0, SUCCESS },
        { 14, { AG_DNN_STRICT_NAN }, some, SUCCESS },
    };
}

int finish_heuristics(desc *d)
{
    if (!is_convolution(child(d, AG_DNN_HEUR_GRAPH))) return SUCCESS;
    const geometry g = geometry_of_graph(child(d, AG_DNN_HEUR_GRAPH));
    if (g.before[0] != g.after[0] || g.before[1] != g.after[1]) return complain(NO_PADDING, "paddings that differ");
    return SUCCESS;
}

/* ---- the interface --------------------------------------------------------------------------------------- */

size_t version(void) { return 91900; }
size_t cudart(void) { return 12000; }
const char *error_string(int status) { return status / 1000 == 3 ? "EMULATED_NOT_SUPPORTED" : "EMULATED_FAILURE"; }
void last_error(char *text, size_t size) { snprintf(text, size, "%s", complaint.c_str()); }

int set_stream(ag_dnn_handle, void *to)
{
    if (ag_emulate_fails()) return complain(INTERNAL, "a planted failure");
    stream = (cudaStream_t)to;
    return SUCCESS;
}

int create(ag_dnn_handle *h)
{
    static char handle;
    if (ag_emulate_fails()) return complain(NOT_INITIALIZED, "a planted failure");
    *h = (ag_dnn_handle)&handle;
    return begins == SUCCESS ? SUCCESS : complain(begins, "libcudnn_graph.so.9");
}

int desc_create(int type, ag_dnn_desc *d)
{
    desc *const made = new desc{ type, false, {}, {} };
    alive.insert(made);
    *d = (ag_dnn_desc)made;
    return SUCCESS;
}

int desc_destroy(ag_dnn_desc d)
{
    if (!alive.erase((desc *)d)) return complain(BAD_PARAM, "no descriptor");
    delete (desc *)d;
    return SUCCESS;
}

int set(ag_dnn_desc handle, int name, int type, int64_t count, const void *from)
{
    desc *d = (desc *)handle;
    if (!lives(handle) || d->final || !rule_of(d->type)) return complain(BAD_PARAM, "a descriptor that takes no attributes");
    if (name / 100 * 100 != rule_of(d->type)->base) return complain(BAD_PARAM, "an attribute of another descriptor");
    const char *const bytes = (const char *)from;
    if (type == AG_DNN_DESCRIPTOR)
        for (int64_t i = 0; i < count; i++) {
            ag_dnn_desc of = ((const ag_dnn_desc *)from)[i];
            if (!lives(of)) return complain(BAD_PARAM, "no descriptor");
            if (!((desc *)of)->final) return complain(NOT_FINALIZED, "a part that is not finalized");
        }
    d->set[name] = { type, count, std::vector<char>(bytes, bytes + (size_t)count * size_of(type)) };
    return SUCCESS;
}

int finalize(ag_dnn_desc handle)
{
    desc *d = (desc *)handle;
    if (ag_emulate_fails()) return complain(INTERNAL, "a planted failure");
    if (!lives(handle) || d->final || !rule_of(d->type)) return complain(BAD_PARAM, "nothing to finalize");
    for (int offset : rule_of(d->type)->required)
        if (!d->set.count(rule_of(d->type)->base + offset)) return complain(BAD_PARAM, "an attribute is missing");
    int status = SUCCESS;
    if (d->type == AG_DNN_FORWARD || d->type == AG_DNN_INPUT_GRADIENT || d->type == AG_DNN_WEIGHT_GRADIENT)
        status = consistent(geometry_of(d)) ? SUCCESS : complain(BAD_PARAM, "sizes that do not fit");
    if (d->type == AG_DNN_HEURISTICS) status = finish_heuristics(d);
    if (d->type == AG_DNN_PLAN) status = child(d, AG_DNN_PLAN_CONFIG)->of.finalizes;
    d->final = status == SUCCESS;
    return status;
}

int get_results(const desc *d, int64_t wanted, int64_t *count, ag_dnn_desc *to)
{
    const std::vector<engine> list = ranked(child(d, AG_DNN_HEUR_GRAPH), value<int>(d, AG_DNN_HEUR_MODE_OF));
    *count = std::min(wanted, (int64_t)list.size());
    for (int64_t i = 0; i < *count; i++) {
        desc *config = (desc *)to[i];
        if (!lives(to[i]) || config->type != AG_DNN_CONFIG) return complain(BAD_PARAM, "no configuration");
        config->of = list[(size_t)i], config->final = true;
        config->set[AG_DNN_HEUR_GRAPH] = d->set.at(AG_DNN_HEUR_GRAPH);
    }
    return SUCCESS;
}

int get(ag_dnn_desc handle, int name, int, int64_t wanted, int64_t *count, void *to)
{
    const desc *d = (const desc *)handle;
    if (!lives(handle) || !d->final) return complain(NOT_FINALIZED, "what is not finalized is not known");
    if (name == AG_DNN_HEUR_RESULTS && d->type == AG_DNN_HEURISTICS) return get_results(d, wanted, count, (ag_dnn_desc *)to);
    *count = 1;
    if (name == AG_DNN_CONFIG_ENGINE && d->type == AG_DNN_CONFIG) {
        desc *into = *(desc **)to;
        if (!lives((ag_dnn_desc)into) || into->type != AG_DNN_ENGINE) return complain(BAD_PARAM, "no engine");
        into->of = d->of, into->final = true;
    } else if (name == AG_DNN_ENGINE_INDEX && d->type == AG_DNN_ENGINE) {
        *(int64_t *)to = d->of.index;
    } else if (name == AG_DNN_ENGINE_NOTES && d->type == AG_DNN_ENGINE) {
        *count = std::min(wanted, (int64_t)d->of.notes.size());
        std::copy_n(d->of.notes.begin(), *count, (int *)to);
    } else if (name == AG_DNN_PLAN_WORKSPACE && d->type == AG_DNN_PLAN) {
        *(int64_t *)to = child(d, AG_DNN_PLAN_CONFIG)->of.workspace;
    } else {
        return complain(BAD_PARAM, "an attribute that cannot be asked for");
    }
    return SUCCESS;
}

void *pointer_of(const desc *pack, int64_t id)
{
    const attribute &ids = pack->set.at(AG_DNN_PACK_IDS);
    for (int64_t i = 0; i < ids.count; i++)
        if (values<int64_t>(pack, AG_DNN_PACK_IDS)[i] == id) return values<void *>(pack, AG_DNN_PACK_POINTERS)[i];
    return nullptr;
}

bool aligned(const void *p, const tensor &t) { return p && (uintptr_t)p % (uintptr_t)t.alignment == 0; }

int execute_fused(const desc *config, const desc *pack)
{
    const std::vector<operation> list = operations_of(child(config, AG_DNN_HEUR_GRAPH));
    std::map<int64_t, void *> memory;
    std::map<int64_t, float> numbers;
    for (const operation &o : list)
        for (const tensor *t : { &o.x, &o.y, o.binary ? &o.z : &o.y }) {
            if (t->passing) continue;
            void *const p = pointer_of(pack, t->id);
            if (!aligned(p, *t)) return complain(BAD_POINTER, "a pointer");
            if (t->by_value) numbers[t->id] = *(const float *)p;
            else memory[t->id] = p;
        }
    const bool broken = config->of.index != 13;
    ag_emulate_queue(stream, [=] { run_fused(list, memory, numbers, broken); });
    return SUCCESS;
}

int execute(ag_dnn_handle h, ag_dnn_desc plan_handle, ag_dnn_desc pack_handle)
{
    if (ag_emulate_fails()) return complain(EXECUTION_FAILED, "a planted failure");
    if (!h || !lives(plan_handle) || !lives(pack_handle)) return complain(BAD_PARAM, "no plan");
    const desc *plan = (desc *)plan_handle, *pack = (desc *)pack_handle, *config = child(plan, AG_DNN_PLAN_CONFIG);
    if (!plan->final || !pack->final) return complain(NOT_FINALIZED, "a plan that is not finalized");
    last_engine = config->of.index;
    if (!is_convolution(child(config, AG_DNN_HEUR_GRAPH))) return execute_fused(config, pack);
    const geometry g = geometry_of_graph(child(config, AG_DNN_HEUR_GRAPH));
    void *const x = pointer_of(pack, g.x.id), *const w = pointer_of(pack, g.w.id), *const y = pointer_of(pack, g.y.id);
    if (!aligned(x, g.x) || !aligned(w, g.w) || !aligned(y, g.y)) return complain(BAD_POINTER, "a pointer");
    void *const workspace = value<void *>(pack, AG_DNN_PACK_WORKSPACE);
    const size_t bytes = (size_t)config->of.workspace;
    if (bytes && !workspace) return complain(BAD_POINTER, "no workspace");
    const bool is_narrow = g.x.type == AG_DNN_BF16, broken = last_engine != (is_narrow ? 13 : 14);
    ag_emulate_queue(stream, [=] {
        if (bytes) memset(workspace, 0xFF, bytes);
        if (is_narrow) convolve(g, (ag_bf16 *)x, (ag_bf16 *)w, (ag_bf16 *)y, broken);
        else convolve(g, (float *)x, (float *)w, (float *)y, broken);
    });
    return SUCCESS;
}

} // namespace

void ag_emulate_cudnn(bool is_there, int create_status)
{
    ag_cudnn_forget();
    there = is_there, begins = create_status;
}

int64_t ag_emulate_cudnn_alive(void) { return (int64_t)alive.size(); }

int64_t ag_emulate_cudnn_engine(void)
{
    const int64_t engine = last_engine;
    last_engine = 0;
    return engine;
}

bool ag_emulate_dnn_load(ag_dnn_functions *f, int, char *why, size_t size)
{
    if (!there) snprintf(why, size, "libcudnn.so.9 is not in this emulation; Agrad's own kernels go on");
    *f = { version, cudart, error_string, last_error, create, set_stream, desc_create, desc_destroy, finalize, set, get,
           execute };
    return there;
}
