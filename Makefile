# llama.c: make, make demo, make test; make help lists the rest.
CC ?= cc
CFLAGS ?= -O3 -g
WARNINGS = -Wall -Wextra -Wpedantic
HASH := \#
PROBE = $(HASH)include <omp.h>\nint main(void) { return omp_get_num_procs() < 1; }\n
OPENMP ?= $(shell printf '$(PROBE)' | $(CC) -fopenmp -x c -o /dev/null - 2>/dev/null && echo 1 || echo 0)
ifeq ($(OPENMP),1)
OMP = -fopenmp
endif
ALL_CFLAGS = -std=c11 $(WARNINGS) $(CFLAGS) $(OMP)
LIBRARY = llama.c tokenizer.c
HEADERS = llama.h

# Objects depend on how they are compiled: a change of flags makes them anew.
FLAGS = $(CC) $(ALL_CFLAGS) $(LDFLAGS)

all: llama

llama: build/main.o build/llama.o build/tokenizer.o
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ -lm

build/%.o: %.c $(HEADERS) build/flags
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

build/%: tests/%.c tests/test.h tests/checkpoint.h build/llama.o build/tokenizer.o
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $< build/llama.o build/tokenizer.o -lm

build/test_math: tests/test_math.c tests/test.h $(LIBRARY) $(HEADERS) build/flags
	$(CC) $(ALL_CFLAGS) -o $@ $< -lm

build/flags: FORCE
	@mkdir -p build
	@echo '$(FLAGS)' | cmp -s - $@ || echo '$(FLAGS)' > $@

# A story by our own tiny model (tests/tiny/README.md)
demo: llama
	@./llama tests/tiny "There was once a poor woodcutter" -c 256 -n 220 --temp 0.8 --top-p 0.9 --echo

# Needs a C compiler and a shell; no network, no other data. (Threads that sleep while they wait: a busy
# machine must not make the tests slow.)
test: export OMP_WAIT_POLICY = passive
test: llama build/test_math build/test_api build/test_bits build/test_hostile
	build/test_math
	build/test_api tests/tiny
	build/test_bits --self tests/tiny
	build/test_hostile tests/tiny build/hostile
	sh tests/test_cli.sh ./llama tests/tiny
	sh tests/test_build.sh
	sh tests/style.sh

# Against the goldens, where the conformance data are: ../shared/conformance.tar.xz
CONFORMANCE ?= ../shared/conformance.tar.xz
conformance: llama build/conformance build/test_bits build/test_math build/tokenizer_speed
	sh tests/conformance.sh '$(CONFORMANCE)'

# The same bits from every compiler, flag, thread count, batch and kernel: needs the conformance data
bits:
	sh tests/one_answer.sh '$(CONFORMANCE)'

# A short libFuzzer run over each parser; needs clang
SECONDS ?= 60
fuzz:
	sh tests/fuzz.sh $(SECONDS)

style:
	sh tests/style.sh

clean:
	rm -rf build llama

help:
	@echo 'make               the command ./llama (OPENMP=0: without threads)'
	@echo 'make demo          a story by our own tiny model'
	@echo 'make test          the tests; need nothing but a compiler'
	@echo 'make conformance   the goldens, where their data are (CONFORMANCE=FILE.tar.xz)'
	@echo 'make bits          one SHA-256 from every build, where the data are'
	@echo 'make fuzz          fuzz the parsers for SECONDS=60 each (clang)'
	@echo 'make style         lengths, comments, globals'
	@echo 'make clean'

.PHONY: all demo test conformance bits fuzz style clean help FORCE
