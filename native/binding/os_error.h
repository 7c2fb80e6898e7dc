// System call failures as JavaScript errors.
#ifndef QCOW2_BINDING_OS_ERROR_H_
#define QCOW2_BINDING_OS_ERROR_H_

#include <node_api.h>

#include "os/result.h"

namespace qcow2::binding {

// An Error as Node makes them, with code, errno (negative) and syscall; nullptr when the environment refuses.
napi_value systemError(napi_env env, const OsResult& failed);

}  // namespace qcow2::binding

#endif  // QCOW2_BINDING_OS_ERROR_H_
