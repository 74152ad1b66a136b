# make help lists the targets. Variables for the command line: BUILD=release|debug|asan|tsan|f64|emu, T=name (one test),
# PREFIX=/usr/local, CC, and for the GPU NVCC, CUDA=0|1, CUDA_ARCH="80 90 100" (cuda/cuda.mk); MPI=0|1.

BUILD  ?= release
PREFIX ?= /usr/local
CC     ?= cc
CXX    ?= c++
NVCC   ?= nvcc
MPI    ?= 1

out := build/$(BUILD)$(if $(SANITIZE),-asan)

wide_vectors   := $(if $(filter x86_64,$(shell uname -m)),-mprefer-vector-width=512)
cflags.release := -O3 -march=native $(wide_vectors) -fno-math-errno -fno-trapping-math -ffp-contract=fast -g
cflags.debug   := -O0 -g3 -DAG_DEBUG
cflags.asan    := -O1 -g3 -DAG_DEBUG -fsanitize=address,undefined -fno-sanitize-recover=undefined
cflags.tsan    := -O1 -g3 -DAG_DEBUG -fsanitize=thread
cflags.f64     := -O2 -g -DAG_F64
cflags.cover   := -O0 -g --coverage
warnings       := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror

CPPFLAGS += -I. -MMD -MP -D_GNU_SOURCE
CFLAGS   += -std=c11 $(warnings) $(cflags.$(BUILD)) -fopenmp -fPIC -fno-semantic-interposition -ftls-model=initial-exec
LDFLAGS  += $(filter -fsanitize=% --coverage,$(cflags.$(BUILD))) -fopenmp
LDLIBS   += -lm -pthread -ldl

ifneq ($(wildcard /usr/include/dnnl.h /usr/include/oneapi/dnnl/dnnl.h),)
  CPPFLAGS += -DAG_HAVE_ONEDNN
  LDLIBS   += -ldnnl
endif
ifneq ($(shell pkg-config --exists cairo 2>/dev/null && echo yes),)
  CPPFLAGS += -DAG_HAVE_CAIRO $(shell pkg-config --cflags cairo)
  LDLIBS   += $(shell pkg-config --libs cairo)
endif
ifneq ($(wildcard /usr/include/stb/stb_image.h),)
  CPPFLAGS += -DAG_HAVE_STB
endif
ifneq ($(wildcard /usr/include/jpeglib.h),)
  CPPFLAGS += -DAG_HAVE_JPEG
  LDLIBS   += -ljpeg
endif

# Several processes that learn as one (core/ranks.h): with Open MPI or MPICH where they are installed; MPI=0: without.
mpi := $(if $(filter-out 0,$(MPI)),$(firstword $(foreach p,ompi-c mpich,$(shell pkg-config --exists $p 2>/dev/null && echo $p))))
ifneq ($(mpi),)
  CPPFLAGS += -DAG_HAVE_MPI $(shell pkg-config --cflags $(mpi))
  LDLIBS   += $(shell pkg-config --libs $(mpi))
endif

include cuda/cuda.mk
sources  := $(wildcard core/*.c ops/*.c nn/*.c optim/*.c data/*.c models/*.c) $(cuda_sources)
objects  := $(sources:%=$(out)/%.o)
lib      := $(out)/libagrad.a
tests    := $(patsubst tests/%.c,$(out)/tests/%,$(wildcard tests/test_*.c))
programs := $(patsubst examples/%/main.c,build/%,$(wildcard examples/*/main.c))

.DEFAULT_GOAL := all
.PHONY: all lib setup demo test run-tests tests check bench parity asan asan-kernels tsan f64 cover install gpu-check help clean

all: lib $(programs)    ## the library and the programs (build/movielens, build/model, build/paddy ...)
lib: $(lib)

# ---- for a new machine --------------------------------------------------------------------------------------------

packages := gcc g++ libc6-dev pkg-config libdnnl-dev libcairo2-dev libstb-dev libjpeg62-turbo-dev libcmocka-dev fonts-dejavu-core

setup:                  ## installs what is missing (Debian: compiler, oneDNN, cairo, cmocka)
	@tests/setup.sh $(packages)

demo: setup             ## sets up, learns from ratings and from leaves, shows what came of it
	@$(MAKE) --no-print-directory -j all && examples/movielens/demo.sh && examples/paddy/demo.sh

test: setup             ## sets up, builds everything, passes the tests (T=name: one)
	@$(MAKE) --no-print-directory -j all tests && $(MAKE) --no-print-directory BUILD=f64 -j build/f64/tests/test_ops
	@$(MAKE) --no-print-directory BUILD=emu -j $(filter build/emu/%,$(variants)) build/emu/paddy build/emu/movielens
	@$(MAKE) --no-print-directory run-tests

tests: $(tests)

# The ops in double, the GPU's kernels on the CPU.
variants := $(if $(filter release,$(BUILD)),build/f64/tests/test_ops \
              $(patsubst tests/%.c,build/emu/tests/%,$(wildcard tests/test_cuda*.c)))
run-tests: export LSAN_OPTIONS = suppressions=$(CURDIR)/tests/leaks:print_suppressions=0
run-tests:
	@for t in $(if $(T),$(out)/tests/test_$(T),$(tests) $(variants)); do \
	    echo "== $$t"; $$t || exit 1; done
	@$(if $(T),,if [ $(BUILD) = release ]; then tests/movielens.sh && tests/model.sh && tests/paddy.sh && tests/ranks.sh && tests/device.sh; fi)

# ---- building -------------------------------------------------------------------------------------------------------

$(lib): $(objects)
	@rm -f $@ && $(AR) rcs $@ $^

$(out)/tests/%: $(out)/tests/%.c.o $(lib)
	@echo "  link  $@"
	@$(LINK) $(LDFLAGS) $^ $(LDLIBS) -lcmocka -o $@

$(out)/%.c.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  cc    $@"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

define program
build/$(1): $$(patsubst %.c,build/release/%.c.o,$$(wildcard examples/$(1)/*.c examples/common/*.c)) build/release/libagrad.a
	@echo "  link  $$@"
	@$$(CC) $$(LDFLAGS) $$^ $$(LDLIBS) -o $$@
endef
$(foreach p,$(patsubst build/%,%,$(programs)),$(eval $(call program,$(p))))

# ---- checking -------------------------------------------------------------------------------------------------------

check: all              ## include direction, names, sizes, formatting, the header as C++, allocation in one place
	@tests/check.sh $(lib)

asan:                   ## all tests and the program under the address and undefined behaviour sanitizers
	@$(MAKE) --no-print-directory BUILD=asan -j tests build/asan/movielens build/asan/model build/asan/paddy
	@$(MAKE) --no-print-directory BUILD=asan run-tests && tests/movielens.sh build/asan/movielens && tests/model.sh build/asan/model && \
	    tests/paddy.sh build/asan/paddy

asan-kernels: kernels := $(patsubst %,build/emu-asan/tests/test_%,cuda cuda_norms cuda_conv cuda_attention cuda_augment cuda_rows)
asan-kernels:           ## the GPU's kernels in the emulation under the same, in one order of their threads
	@$(MAKE) --no-print-directory BUILD=emu SANITIZE=1 -j $(kernels)
	@for t in $(kernels); do echo "== $$t"; ASAN_OPTIONS=detect_leaks=0 $$t || exit 1; done

define variant
$(out)/$(1): $$(patsubst %.c,$(out)/%.c.o,$$(wildcard examples/$(1)/*.c examples/common/*.c)) $(lib)
	@echo "  link  $$@"
	@$$(LINK) $$(LDFLAGS) $$^ $$(LDLIBS) -o $$@
endef
$(foreach p,movielens model paddy,$(eval $(call variant,$(p))))

tsan_tests := $(patsubst %,build/tsan/tests/test_%,loader block image_cache learner engine optim)
tsan:                   ## loaders, learner, engine and optimizers under the thread sanitizer
	@$(MAKE) --no-print-directory BUILD=tsan -j $(tsan_tests)
	@for t in $(tsan_tests); do echo "== $$t"; $$t || exit 1; done

cover:                  ## line coverage of the tests by file
	@$(MAKE) --no-print-directory BUILD=cover -j tests && $(MAKE) --no-print-directory BUILD=cover run-tests >/dev/null
	@cd build/cover && find . -path ./tests -prune -o -name '*.gcda' -print | xargs gcov -n -s $(CURDIR) -r 2>/dev/null | \
	    awk '/^File/ {f = $$2} /^Lines/ {print $$2, f}' | sed "s/executed://; s/'//g" | sort -n

benches := $(patsubst %,build/release/tests/bench/%,bench bench_kernels bench_depthwise bench_transform bench_loader)
bench: all              ## times beside PyTorch's, where there is one (PYTHON=path); writes build/bench.tsv
	@$(MAKE) --no-print-directory $(benches) && tests/bench/run.sh

$(out)/tests/bench/%: $(out)/tests/bench/%.c.o $(lib)
	@echo "  cc    $@"
	@$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

parity: all             ## image models beside timm's, in a Python environment of their own (PYTHON=path: in yours)
	@$(MAKE) --no-print-directory build/release/tests/parity/parity && tests/parity/run.sh $(PARITY)

gpu-check:              ## where there is a GPU: builds, tests, sanitizes, benches; one table last
	@BUILD=$(BUILD) NVCC="$(NVCC)" tests/gpu_check.sh

# ---- installing -----------------------------------------------------------------------------------------------------

headers := agrad.h $(wildcard core/*.h ops/*.h nn/*.h optim/*.h data/*.h models/*.h) ops/elementwise.def

$(out)/libagrad.so: $(objects)
	@echo "  cc    $@"
	@$(CC) -shared $(LDFLAGS) $^ $(LDLIBS) -Wl,-soname,libagrad.so.0 -o $@

install: $(lib) $(out)/libagrad.so      ## header, static and shared library, pkg-config, under PREFIX=
	@for h in $(headers); do install -Dm644 $$h $(DESTDIR)$(PREFIX)/include/agrad/$$h; done
	@install -Dm644 $(lib) $(DESTDIR)$(PREFIX)/lib/libagrad.a
	@install -Dm755 $(out)/libagrad.so $(DESTDIR)$(PREFIX)/lib/libagrad.so.0
	@ln -sf libagrad.so.0 $(DESTDIR)$(PREFIX)/lib/libagrad.so
	@mkdir -p $(DESTDIR)$(PREFIX)/lib/pkgconfig
	@printf 'prefix=%s\nName: agrad\nDescription: autograd deep learning in C\nVersion: 0.1.0\nCflags: -I$${prefix}/include/agrad -D_GNU_SOURCE\nLibs: -L$${prefix}/lib -lagrad -fopenmp\nLibs.private: %s\n' \
	    '$(PREFIX)' '$(LDLIBS)' > $(DESTDIR)$(PREFIX)/lib/pkgconfig/agrad.pc
	@echo "installed under $(DESTDIR)$(PREFIX)"

help:                   ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

clean:                  ## removes build/
	rm -rf build

.SECONDARY:
-include $(shell find build -name '*.d' 2>/dev/null)
