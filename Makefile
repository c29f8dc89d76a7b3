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

VERSION = $(shell awk '/define LLAMA_RELEASE/ { printf "%d.%d.%d", $$3 / 10000, $$3 / 100 % 100, $$3 % 100 }' llama.h)
SONAME = libllamac.so.0
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
MANDIR ?= $(PREFIX)/share/man

# Objects depend on how they are compiled: a change of flags makes them anew.
FLAGS = $(CC) $(ALL_CFLAGS) $(LDFLAGS)

all: llama

llama: build/main.o build/llama.o build/tokenizer.o
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -pthread -o $@ $^ -lm

build/llama.1: llama tests/manpage.sh
	sh tests/manpage.sh ./llama >$@

build/%.o: %.c $(HEADERS) build/flags
	$(CC) $(ALL_CFLAGS) $(PIC) -c -o $@ $<

build/llama.o build/tokenizer.o: PIC = -fPIC

build/libllamac.a: build/llama.o build/tokenizer.o
	rm -f $@
	$(AR) rcs $@ $^

build/$(SONAME): build/llama.o build/tokenizer.o
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -shared -Wl,-soname,$(SONAME) -o $@ $^ -lm

build/%: tests/%.c tests/test.h tests/checkpoint.h build/llama.o build/tokenizer.o
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $< build/llama.o build/tokenizer.o -lm

build/test_math build/test_amx: build/%: tests/%.c tests/test.h tests/checkpoint.h $(LIBRARY) $(HEADERS) build/flags
	$(CC) $(ALL_CFLAGS) -o $@ $< -lm

build/test_threads: LDFLAGS += -pthread

build/flags: FORCE
	@mkdir -p build
	@echo '$(FLAGS)' | cmp -s - $@ || echo '$(FLAGS)' > $@

# A story by our own tiny model (tests/tiny/README.md)
demo: llama
	@./llama tests/tiny "There was once a poor woodcutter" -c 256 -n 220 --temp 0.8 --top-p 0.9 --echo

# Needs a C compiler and a shell; no network, no other data. (Threads that sleep while they wait: a busy
# machine must not make the tests slow.)
test: export OMP_WAIT_POLICY = passive
test: llama build/$(SONAME) build/test_math build/test_api build/test_bits build/test_hostile build/test_threads build/test_formats build/test_amx build/test_state build/test_damage build/test_texts build/soak
	build/test_math
	build/test_api tests/tiny
	build/test_texts tests/tiny
	build/test_bits --self tests/tiny
	build/test_hostile tests/tiny build/hostile
	build/test_threads tests/tiny
	build/test_formats tests/tiny build/formats
	build/test_amx
	build/test_state build/state
	build/test_damage build/damage
	build/soak tests/tiny 4000 400
	sh tests/test_cli.sh ./llama tests/tiny build/formats/cli
	sh tests/python.sh pty tests/terminal.py ./llama tests/tiny
	sh tests/test_build.sh
	sh tests/python.sh numpy tests/trace.py build/$(SONAME) ./llama tests/tiny
	sh tests/python.sh "numpy, sentencepiece" tests/score.py ./llama tests/tiny tests/tiny/items.tsv
	sh tests/python.sh json tests/paper/test_paper.py ./llama tests/tiny
	sh tests/style.sh

# Against the goldens, where the conformance data are: ../shared/conformance.tar.xz
CONFORMANCE ?= ../shared/conformance.tar.xz
conformance: llama build/$(SONAME) build/conformance build/test_bits build/test_math build/test_amx build/tokenizer_speed
	sh tests/conformance.sh '$(CONFORMANCE)'

# The same bits from every compiler, flag, thread count, batch and kernel: needs the conformance data
bits:
	sh tests/one_answer.sh '$(CONFORMANCE)'

# How fast, as fractions of this machine's limits; fails if a fraction is over 100%. Without MODEL, a folder of 1.3 GB is
# made under build/
bench: build/bench
	build/bench $(BENCH) $(MODEL)

# libFuzzer over everything that reads what others wrote, SECONDS each; needs clang. TARGETS: some of them
SECONDS ?= 60
fuzz:
	sh tests/fuzz.sh $(SECONDS) $(TARGETS)

# Every allocation and system call of the library and the command failed, once and from then on
WRAPPED = aligned_alloc malloc calloc realloc free open close fstat stat access mmap munmap madvise mincore mlock read \
    write fsync rename unlink realpath fchmod fopen fileno pthread_create pthread_detach sched_getaffinity isatty \
    poll getentropy clock_gettime exit
SANITIZED = -std=c11 $(WARNINGS) -O2 -g -fno-omit-frame-pointer $(OMP) -fsanitize=address,undefined -fno-sanitize-recover=undefined

build/faults: tests/faults.c tests/test.h tests/checkpoint.h $(LIBRARY) main.c $(HEADERS) build/flags
	$(CC) $(SANITIZED) -DCOMMAND -c -o build/faults_main.o tests/faults.c
	$(CC) $(SANITIZED) $(WRAPPED:%=-Wl,--wrap=%) -o $@ tests/faults.c $(LIBRARY) build/faults_main.o -pthread -lm

faults: export OMP_WAIT_POLICY = passive
faults: build/faults build/test_formats
	build/test_formats tests/tiny build/formats
	build/faults tests/tiny build/formats/cli build/faulty

# 100,000 tokens and 10,000 models opened and closed: nothing grows
soak: build/soak
	build/soak tests/tiny 100000 10000

# kill -9 while a prompt cache is written, so many times: the old file stays, or the new one is there
KILLS ?= 1000
killed: llama
	sh tests/killed.sh ./llama tests/tiny $(KILLS)

# What valgrind says of the tests
valgrind: export OMP_WAIT_POLICY = passive
valgrind:
	sh tests/valgrind.sh

# Which lines and branches the tests reach (gcov); what compilers and analysers find
coverage:
	sh tests/coverage.sh
analyze:
	sh tests/analyze.sh

style:
	sh tests/style.sh

# The names leave those of llama.cpp alone: libllamac, llamac.pc, llamac/llama.h
install: llama build/llama.1 build/libllamac.a build/$(SONAME)
	install -d '$(DESTDIR)$(BINDIR)' '$(DESTDIR)$(MANDIR)/man1' '$(DESTDIR)$(LIBDIR)/pkgconfig' '$(DESTDIR)$(INCLUDEDIR)/llamac'
	install -m 755 llama '$(DESTDIR)$(BINDIR)/llama'
	install -m 644 build/llama.1 '$(DESTDIR)$(MANDIR)/man1/llama.1'
	sed '/^#endif .* LLAMAC_H/q' llama.h >build/llama.h # what programs see of it
	install -m 644 build/llama.h '$(DESTDIR)$(INCLUDEDIR)/llamac/llama.h'
	install -m 644 build/libllamac.a '$(DESTDIR)$(LIBDIR)/libllamac.a'
	install -m 755 build/$(SONAME) '$(DESTDIR)$(LIBDIR)/$(SONAME)'
	ln -sf $(SONAME) '$(DESTDIR)$(LIBDIR)/libllamac.so'
	printf '%s\n' 'Name: llamac' 'Description: LLaMA on a CPU, from the files Meta shipped' 'Version: $(VERSION)' \
	    'Cflags: -I$(INCLUDEDIR) -I$(INCLUDEDIR)/llamac' 'Libs: -L$(LIBDIR) -lllamac' 'Libs.private: -lm $(OMP)' \
	    >'$(DESTDIR)$(LIBDIR)/pkgconfig/llamac.pc'

uninstall:
	rm -f '$(DESTDIR)$(BINDIR)/llama' '$(DESTDIR)$(MANDIR)/man1/llama.1' '$(DESTDIR)$(INCLUDEDIR)/llamac/llama.h' '$(DESTDIR)$(LIBDIR)/libllamac.a' \
	    '$(DESTDIR)$(LIBDIR)/$(SONAME)' '$(DESTDIR)$(LIBDIR)/libllamac.so' '$(DESTDIR)$(LIBDIR)/pkgconfig/llamac.pc'
	-rmdir '$(DESTDIR)$(INCLUDEDIR)/llamac'

dist:
	mkdir -p build
	git archive --prefix=llama.c-$(VERSION)/ -o build/llama.c-$(VERSION).tar.gz HEAD

clean:
	rm -rf build llama

help:
	@echo 'make               the command ./llama (OPENMP=0: without threads)'
	@echo 'make demo          a story by our own tiny model'
	@echo 'make test          the tests; need nothing but a compiler'
	@echo 'make conformance   the goldens, where their data are (CONFORMANCE=FILE.tar.xz)'
	@echo 'make bits          one SHA-256 from every build, where the data are'
	@echo 'make bench         speed against this machine (MODEL=folder, BENCH="-t 1 -r 9 -n 1,8,512 --json", PEER="command")'
	@echo 'make fuzz          fuzz the parsers for SECONDS=60 each, or some: TARGETS="gguf pth" (clang)'
	@echo 'make faults        every allocation and system call failed (gcc, glibc)'
	@echo 'make soak          100,000 tokens, 10,000 models opened: nothing grows'
	@echo 'make killed        kill -9 while a prompt cache is written'
	@echo 'make valgrind      the tests under valgrind'
	@echo 'make coverage      lines and branches the tests reach'
	@echo 'make analyze       gcc -fanalyzer, -Wconversion, clang-tidy, cppcheck'
	@echo 'make style         lengths, comments, globals'
	@echo 'make install       to PREFIX=/usr/local, under DESTDIR; make uninstall'
	@echo 'make dist          build/llama.c-$(VERSION).tar.gz'
	@echo 'make clean'

.PHONY: all demo test conformance bits bench fuzz faults soak killed valgrind coverage analyze style install uninstall dist clean help FORCE
