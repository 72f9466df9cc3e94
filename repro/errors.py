"""Errors that are not the program's own: of a person's input, and of the machine."""

import errno

# A full disk or quota, a file system that fails or refuses, something in a file's place, too few handles, too little memory.
_OF_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EIO, errno.EROFS, errno.ESTALE, errno.EACCES, errno.EPERM),
    *(errno.EEXIST, errno.EISDIR, errno.ENOTDIR),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}
# What libraries with errors of their own say of the same: torch's allocators and writer, and safetensors.
_PHRASES = (
    "No space left on device",
    "StorageFull",
    "File too large",
    "quota exceeded",
    "allocate memory",
    "out of memory",
)


class UserError(Exception):
    """Something a person can correct: the message says what is wrong and what would be right."""


def is_of_machine(error: BaseException) -> bool:
    """Whether an error comes from the machine, such as a full disk or too little memory, and not from a fault in the code."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _OF_MACHINE):
        return True
    return any(phrase.lower() in str(error).lower() for phrase in _PHRASES)
