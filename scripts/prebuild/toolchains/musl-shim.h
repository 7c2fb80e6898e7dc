// Makes the libstdc++ of a system with glibc fit musl; included before everything else.
#define __GLIBC_PREREQ(major, minor) 0
#include <bits/c++config.h>
#undef _GLIBCXX_USE_PTHREAD_MUTEX_CLOCKLOCK
#undef _GLIBCXX_USE_PTHREAD_RWLOCK_CLOCKLOCK
#undef _GLIBCXX_USE_PTHREAD_COND_CLOCKWAIT
typedef struct __locale_struct* __locale_t;

// libstdc++ takes a process for one without threads, and then does not lock, when this function of glibc is missing.
#include <pthread.h>
extern "C" __attribute__((used, weak, visibility("hidden"))) int __pthread_key_create(
    pthread_key_t* key, void (*destroy)(void*)) {
  return pthread_key_create(key, destroy);
}

// Linux's, which musl's headers have from 1.2.3 on.
#define SEEK_DATA 3
#define SEEK_HOLE 4
