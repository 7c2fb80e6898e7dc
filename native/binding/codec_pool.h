// The environment's codec contexts, for all files of this folder that code clusters.
#ifndef QCOW2_BINDING_CODEC_POOL_H_
#define QCOW2_BINDING_CODEC_POOL_H_

#include <node_api.h>

#include <memory>

#include "core/codec_pool.h"

namespace qcow2::binding {

// Shared, because the environment may go while work still runs.
std::shared_ptr<CodecPool> codecPoolOf(napi_env env);

}  // namespace qcow2::binding

#endif  // QCOW2_BINDING_CODEC_POOL_H_
