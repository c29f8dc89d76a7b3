"""complete.py LIBRARY MODEL PROMPT: the library from Python, through ctypes: complete a prompt by 24 tokens, greedily.

LIBRARY is build/libllamac.so.0, or an installed libllamac.so. Every call returns 0 or a negative code."""
import ctypes
import sys

lib = ctypes.CDLL(sys.argv[1])
lib.llama_text_to_tokens.restype = ctypes.c_ssize_t
lib.llama_strerror.restype = ctypes.c_char_p
lib.llama_token_text.restype = ctypes.POINTER(ctypes.c_char)


class Sampler(ctypes.Structure):  # llama_sampler: with nothing but its size set, it is greedy
    _fields_ = [("size", ctypes.c_size_t), ("temperature", ctypes.c_float), ("top_p", ctypes.c_float),
                ("min_p", ctypes.c_float), ("top_k", ctypes.c_int), ("repeat_penalty", ctypes.c_float),
                ("repeat_last", ctypes.c_int), ("seed", ctypes.c_uint64), ("bias", ctypes.POINTER(ctypes.c_float))]


def must(code):
    if code < 0:
        sys.exit(f"{sys.argv[0]}: {lib.llama_strerror(code).decode()}")
    return code


model, session = ctypes.c_void_p(), ctypes.c_void_p()
must(lib.llama_open(ctypes.byref(model), sys.argv[2].encode(), None, None))
must(lib.llama_session_new(ctypes.byref(session), model, None, None))

prompt = sys.argv[3].encode()
tokens = (ctypes.c_int32 * 256)()
n = must(lib.llama_text_to_tokens(model, prompt, ctypes.c_size_t(len(prompt)), 1, tokens, ctypes.c_size_t(256)))
sampler = Sampler(size=ctypes.sizeof(Sampler))
text = b""
for _ in range(24):
    must(lib.llama_eval(session, 0, tokens, ctypes.c_size_t(n)))
    tokens[0], n = must(lib.llama_sample(session, 0, ctypes.byref(sampler))), 1
    if lib.llama_is_end(model, tokens[0]):
        break
    length = ctypes.c_size_t()
    piece = lib.llama_token_text(model, tokens[0], ctypes.byref(length))
    text += piece[:length.value]  # SentencePiece writes a space as U+2581
print(text.decode(errors="replace").replace("\u2581", " "))
lib.llama_session_free(session)
lib.llama_close(model)
