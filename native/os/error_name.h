// The name of an errno, such as "ENOSPC".
#ifndef QCOW2_OS_ERROR_NAME_H_
#define QCOW2_OS_ERROR_NAME_H_

#include <string>

namespace qcow2 {

// Names what the system calls of this folder can return; "Unknown system error N", as Node says, for the
// rest.
std::string errorName(int error);

}  // namespace qcow2

#endif  // QCOW2_OS_ERROR_NAME_H_
