// What glibc's libstdc++ and libgcc want of glibc and musl does not have: enough to start Bun for musl with them.
#define _GNU_SOURCE
#include <sys/random.h>
#include <time.h>

unsigned arc4random(void) {
  unsigned number;
  getrandom(&number, sizeof number, 0);
  return number;
}

size_t __strftime_l(char *out, size_t room, const char *format, const struct tm *time, locale_t locale) {
  return strftime_l(out, room, format, time, locale);
}

// Destructors of a thread's variables; they are left out.
int __cxa_thread_atexit_impl(void (*destroy)(void *), void *object, void *library) { return 0; }

// "Not known": the unwinder then asks dl_iterate_phdr.
int _dl_find_object(void *address, void *result) { return -1; }

char __libc_single_threaded = 0;
int __cpu_indicator_init(void) { return 0; }
struct {
  unsigned vendor, type, subtype, features[1];
} __cpu_model;
