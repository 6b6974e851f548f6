# pg_registry: plain `make` and `make install` are PGXS's own; `make help` lists the rest.
#
# Two libraries come out of src/.  pg_registry is loaded by the postmaster and so by every backend;
# pg_registry_http, the only one that is linked with libcurl and libxml2, by our worker processes alone.
# All that is built lies in build/$(FLAVOUR), so that objects made with different flags never meet:
#
#   make                   build/release, with the flags that PostgreSQL itself was built with
#   make FLAVOUR=test      asserts, -Werror and the test-only hooks (PGR_TESTING)
#   make FLAVOUR=asan      the same under AddressSanitizer and UBSan

EXTENSION = pg_registry
DATA = pg_registry--1.0.sql

FLAVOUR ?= release
O = build/$(FLAVOUR)

HTTP_DIRS = src/http src/fetch src/deliver src/worker
SOURCES = $(sort $(wildcard src/*.c src/*/*.c))
SRC_HEADERS = $(sort $(wildcard src/*.h src/*/*.h))
HTTP_SOURCES = $(filter $(addsuffix /%,$(HTTP_DIRS)),$(SOURCES))
CORE_SOURCES = $(filter-out $(HTTP_SOURCES),$(SOURCES))
# The helpers in base/ have no state, so each library simply has its own copy.
BASE_SOURCES = $(filter src/base/%,$(SOURCES))

OBJS_CORE = $(CORE_SOURCES:src/%.c=$(O)/%.o)
OBJS_HTTP = $(HTTP_SOURCES:src/%.c=$(O)/%.o) $(BASE_SOURCES:src/%.c=$(O)/%.o)
LIBRARIES = $(O)/pg_registry.so $(O)/pg_registry_http.so
BUILD_ID = $(O)/build_id.h

PG_CFLAGS = -Wall -Wextra -Wshadow -Wno-unused-parameter $(CFLAGS_$(FLAVOUR))
CFLAGS_test = -Werror -O1 -g -DUSE_ASSERT_CHECKING -DPGR_TESTING
CFLAGS_asan = $(CFLAGS_test) $(SANITIZERS) -fno-omit-frame-pointer -U_FORTIFY_SOURCE
LDFLAGS_asan = $(SANITIZERS)
SANITIZERS = -fsanitize=address,undefined

# Where a header of the system stands is asked of pkg-config, or else of the library's own script.
isystem = $(patsubst -I%,-isystem %,$(1))
CURL_CFLAGS := $(shell pkg-config --cflags libcurl 2>/dev/null || curl-config --cflags 2>/dev/null)
CURL_LIBS := $(shell pkg-config --libs libcurl 2>/dev/null || curl-config --libs 2>/dev/null)
XML_CFLAGS := $(shell pkg-config --cflags libxml-2.0 2>/dev/null || xml2-config --cflags 2>/dev/null)
XML_LIBS := $(shell pkg-config --libs libxml-2.0 2>/dev/null || xml2-config --libs 2>/dev/null)
HTTP_CPPFLAGS = $(call isystem,$(CURL_CFLAGS) $(XML_CFLAGS))
HTTP_LIBS = $(or $(CURL_LIBS),-lcurl) $(or $(XML_LIBS),-lxml2)

PG_CONFIG ?= pg_config
PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))

# `make demo` and `make test` install what is missing, so this file must be readable without PGXS.
ifneq ($(PGXS),)

include $(PGXS)

# With -isystem PostgreSQL's headers give no warnings of their own.
override CPPFLAGS := $(patsubst -I/usr/include/%,-isystem /usr/include/%,$(CPPFLAGS))

COMPILE = $(CC) $(CFLAGS) $(CFLAGS_SL) -Isrc -I$(O) $(CPPFLAGS)
LINK = $(CC) $(CFLAGS) $(LDFLAGS) $(LDFLAGS_SL) $(LDFLAGS_$(FLAVOUR)) -shared

all: $(LIBRARIES)

$(O)/pg_registry.so: $(OBJS_CORE) src/pg_registry.map
	$(LINK) -Wl,--version-script=src/pg_registry.map -o $@ $(OBJS_CORE)

$(O)/pg_registry_http.so: $(OBJS_HTTP) src/pg_registry_http.map
	$(LINK) -Wl,--version-script=src/pg_registry_http.map -o $@ $(OBJS_HTTP) $(HTTP_LIBS)

$(HTTP_SOURCES:src/%.c=$(O)/%.o): CPPFLAGS += $(HTTP_CPPFLAGS)

# The header that all include is made first; after that the .d files say who needs what.
$(O)/%.o: src/%.c Makefile | $(BUILD_ID)
	@mkdir -p $(@D)
	$(COMPILE) -MMD -MP -c -o $@ $<

-include $(wildcard $(O)/*.d $(O)/*/*.d)

# Tells whether two libraries, or a library and the shared memory it finds, come from the same sources
# and flags.  The file changes only when the id does, so that an unchanged tree rebuilds nothing.
$(BUILD_ID): $(SOURCES) $(SRC_HEADERS) Makefile
	@mkdir -p $(@D)
	@id=$$(for f in $(SOURCES) $(SRC_HEADERS); do echo "$$f"; cat "$$f"; done | \
		{ echo $(FLAVOUR) "$(VERSION)"; cat; } | sha256sum | cut -c1-32); \
	line="#define PGR_BUILD_ID \"$$id\""; \
	if [ "$$(cat $@ 2>/dev/null)" != "$$line" ]; then echo "$$line" >$@.$$$$ && mv $@.$$$$ $@; fi

# A changed source that leaves its timestamp behind the header's, or a file that was removed, must not
# go unnoticed: the id is computed on every run.
.PHONY: build-id
build-id:
$(BUILD_ID): build-id

install: install-libraries
installdirs: installdirs-libraries
uninstall: uninstall-libraries
clean: clean-build

.PHONY: install-libraries installdirs-libraries uninstall-libraries clean-build
install-libraries: $(LIBRARIES) installdirs
	$(INSTALL_SHLIB) $(LIBRARIES) '$(DESTDIR)$(pkglibdir)/'

installdirs-libraries:
	$(MKDIR_P) '$(DESTDIR)$(pkglibdir)'

uninstall-libraries:
	rm -f $(addprefix '$(DESTDIR)$(pkglibdir)'/,$(notdir $(LIBRARIES)))

clean-build:
	rm -rf build

else

.PHONY: all install installdirs uninstall clean
all install installdirs uninstall:
	@echo "$(PG_CONFIG) knows no PGXS here: install postgresql-server-dev-15 (scripts/deps test), or name" >&2
	@echo "another one with PG_CONFIG=/path/to/pg_config" >&2
	@exit 1

clean:
	rm -rf build

endif

.PHONY: help deps test asan-test lint format layers demo bench stress model

help:
	@echo 'make            build both libraries for the PostgreSQL that PG_CONFIG names'
	@echo 'make install    install them, the control file and the script (DESTDIR works)'
	@echo 'make demo       see it run: a private server, a web server with rates, a short tour, a failover'
	@echo 'make test       all tests on throw-away servers (TESTS="regress:x tap:y" for some of them)'
	@echo 'make asan-test  the same tests under AddressSanitizer and UBSan'
	@echo 'make stress     for minutes: the C programs of tests/stress, a server killed often, a million compared reads, rates in 500 databases'
	@echo 'make model      search all states of the protocol behind reads without locks (spin)'
	@echo 'make lint       format, static checks, allowed includes, exported symbols'
	@echo 'make format     let clang-format rewrite the C files'
	@echo 'make layers     only the allowed includes'
	@echo 'make bench      the tables and the plot of docs/benchmarks.md (UPDATE_DOCS=1 updates them)'
	@echo 'make deps       install what demo, test and lint need'
	@echo 'make clean      remove build/'
	@echo
	@echo 'On Debian, demo, test, model, lint and bench install the packages they need: as root with YES=1 or'
	@echo 'after asking; without root rights they print the command to run.'

deps:
	scripts/deps demo
	scripts/deps test
	scripts/deps lint

test:
	scripts/test

asan-test:
	SANITIZE=1 scripts/test

stress:
	STRESS_SECONDS='$(or $(STRESS_SECONDS),120)' KILLS='$(or $(KILLS),1000)' STATEMENTS='$(or $(STATEMENTS),1000000)' DATABASES='$(or $(DATABASES),500)' \
		TESTS='$(or $(TESTS),stress tap:059_kill tap:064_rates_many_databases tap:066_read_consistency tap:068_partly_in_memory)' scripts/test

model:
	scripts/model

lint:
	scripts/lint

format:
	find src tests -name '*.[ch]' | xargs clang-format -i

layers:
	scripts/layers

demo:
	scripts/demo

bench:
	scripts/bench
