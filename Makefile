# make help lists the targets; every variable below can be set on the command line.

BUILD ?= release#        release | debug | asan | tsan | f64
CUDA  ?= $(if $(shell command -v nvcc),1,0)#   1: build cuda/ and link it; 0: the stub
CC    ?= cc
NVCC  ?= nvcc

out := build/$(strip $(BUILD))

cflags.release := -O3 -march=native -fno-math-errno -fno-trapping-math -g
cflags.debug   := -O0 -g3 -DAG_DEBUG
cflags.asan    := -O1 -g3 -DAG_DEBUG -fsanitize=address,undefined -fno-sanitize-recover=undefined
cflags.tsan    := -O1 -g3 -DAG_DEBUG -fsanitize=thread
cflags.f64     := -O2 -g -DAG_F64
warnings       := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror

CPPFLAGS += -I. -MMD -MP -D_GNU_SOURCE
CFLAGS   += -std=c11 $(warnings) $(cflags.$(strip $(BUILD))) -fopenmp -fPIC -fno-semantic-interposition -ftls-model=initial-exec
LDFLAGS  += $(filter -fsanitize=%,$(cflags.$(strip $(BUILD)))) -fopenmp
LDLIBS   += -lm -pthread -ldl

ifneq ($(wildcard /usr/include/dnnl.h /usr/include/oneapi/dnnl/dnnl.h),)
  CPPFLAGS += -DAG_HAVE_ONEDNN
  LDLIBS   += -ldnnl
endif

sources  := $(wildcard core/*.c ops/*.c nn/*.c optim/*.c data/*.c models/*.c) cuda/stub.c
examples := $(wildcard examples/*/main.c)
tests    := $(wildcard tests/test_*.c)
objects  := $(sources:%=$(out)/%.o)
lib      := $(out)/libagrad.a

.PHONY: all lib test clean
lib: $(lib)
all: $(lib) $(tests:tests/%.c=$(out)/tests/%)

test: all
	@for t in $(if $(T),$(out)/tests/test_$(T),$(tests:tests/%.c=$(out)/tests/%)); do echo "== $$t" && $$t || exit 1; done

clean:
	rm -rf build

$(lib): $(objects)
	@rm -f $@ && $(AR) rcs $@ $^

$(out)/tests/%: $(out)/tests/%.c.o $(lib)
	$(CC) $(LDFLAGS) $^ $(LDLIBS) -lcmocka -o $@

$(out)/%.c.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

.SECONDARY:
-include $(shell find build -name '*.d' 2>/dev/null)
