// The space of a file: punching and reserving ranges. Linux only; elsewhere each says kUnsupported,
// and the caller writes zeros or goes without.
#ifndef QCOW2_OS_SPACE_H_
#define QCOW2_OS_SPACE_H_

#include <cstdint>

#include "os/result.h"

namespace qcow2 {

// Gives the space of a range back; it then reads as zeros. The file keeps its length.
OsResult punchHole(int fd, int64_t offset, int64_t length);

// Reserves space for a range; data in it stays. Without keep_size a range past the end grows the file.
OsResult allocate(int fd, int64_t offset, int64_t length, bool keep_size);

// Whether writing a new file gets faster when space is reserved just before each write: on ext4, which else puts
// the choice of blocks off and pays for every page.
bool gainsFromReserving(int fd);

}  // namespace qcow2

#endif  // QCOW2_OS_SPACE_H_
