# clang for musl (Alpine) on a machine with glibc: musl's headers and C library in front of QCOW2_SYSROOT's libstdc++.
# Debian has no libstdc++ made for musl. The few parts of glibc's that get linked in call plain C functions only, and
# inspect.mjs fails when one of them is missing in musl. On Alpine itself no toolchain file is needed.
include(${CMAKE_CURRENT_LIST_DIR}/linux.cmake)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(QCOW2_MUSL x86_64-linux-musl)
set(QCOW2_GCC ${QCOW2_SYSROOT}/usr/lib/gcc/x86_64-linux-gnu/10)
set(QCOW2_CXX_HEADERS ${QCOW2_SYSROOT}/usr/include)
# The kernel's headers, which belong to neither C library.
foreach(FOLDER linux asm-generic)
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/kernel)
  file(CREATE_LINK ${QCOW2_SYSROOT}/usr/include/${FOLDER} ${CMAKE_BINARY_DIR}/kernel/${FOLDER} SYMBOLIC)
endforeach()
file(CREATE_LINK ${QCOW2_SYSROOT}/usr/include/x86_64-linux-gnu/asm ${CMAKE_BINARY_DIR}/kernel/asm SYMBOLIC)
set(CMAKE_C_FLAGS_INIT "-nostdlibinc -isystem ${QCOW2_SYSROOT}/usr/include/${QCOW2_MUSL}")
# Part of the compiler's name, since cmake-js sets CMAKE_CXX_FLAGS.
list(APPEND CMAKE_CXX_COMPILER -nostdinc++ -nostdlibinc)
foreach(FOLDER c++/10 x86_64-linux-gnu/c++/10 ${QCOW2_MUSL})
  list(APPEND CMAKE_CXX_COMPILER -isystem ${QCOW2_CXX_HEADERS}/${FOLDER})
endforeach()
list(APPEND CMAKE_CXX_COMPILER -isystem ${CMAKE_BINARY_DIR}/kernel)
list(APPEND CMAKE_CXX_COMPILER -include ${CMAKE_CURRENT_LIST_DIR}/musl-shim.h)
string(APPEND CMAKE_MODULE_LINKER_FLAGS_INIT " -nostdlib")
set(CMAKE_CXX_STANDARD_LIBRARIES
  "${QCOW2_GCC}/libstdc++.a ${QCOW2_GCC}/libgcc_eh.a ${QCOW2_GCC}/libgcc.a -L${QCOW2_SYSROOT}/lib/${QCOW2_MUSL} -lc")
