/* The libFuzzer entry point of a Python target: embeds Python and passes each input to `check(data)`
 * of the module named by FUZZ_TARGET. An exception is a finding. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>

static PyObject *check;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    const char *target = getenv("FUZZ_TARGET");
    if (target == NULL) {
        fprintf(stderr, "FUZZ_TARGET is not set\n");
        exit(2);
    }
    Py_InitializeEx(0);
    PyObject *module = PyImport_ImportModule(target);
    check = module == NULL ? NULL : PyObject_GetAttrString(module, "check");
    if (check == NULL) {
        PyErr_Print();
        exit(2);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)size);
    PyObject *result = bytes == NULL ? NULL : PyObject_CallOneArg(check, bytes);
    if (result == NULL) {
        PyErr_Print();
        abort();
    }
    Py_DECREF(result);
    Py_DECREF(bytes);
    return 0;
}
