/* What all parts share: what the module keeps, and the numbers that Python passes. Part of _native.c. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <datetime.h>
#include <structmember.h>
#include <string.h>

/* Rises with what sequent_py asks of this module, there and in native.py. */
#define INTERFACE 10

/* How a value is tested to be stored as it is; see column_types.passes. OTHER is never accepted here, and DRIVER is a form of COPY alone. */
enum Kind { OTHER, INT2, INT4, INT8, BOOL, UUID_, TIMESTAMPTZ, DATE, TEXT, FLOAT8, NUMERIC, JSON, JSONB, ARRAY, ENUM, DRIVER, KINDS };

/* What stands for a value in keys; see column_types.key. */
enum KeyPart { PLAIN, UUID_INT, NAME, NO_KEY };

typedef struct {
    PyObject *uuid_type, *unknown_safety, *decimal_type;
    Py_ssize_t uuid_int, uuid_is_safe; /* Offsets of a UUID's slots. */
    PyObject *str_int, *str_first, *str_store, *str_class, *str_touch, *str_utcoffset, *str_name;
    PyObject *by_aggregate, *nothing; /* names of filters: ("aggregate_id",) and () */
    PyTypeObject *layout, *creator, *finisher, *probe, *access, *update, *shortcut, *setter, *lazy_moment, *row_fold;
} State;

static struct PyModuleDef module_definition;

static State *state_of(PyTypeObject *type) { return (State *)PyType_GetModuleState(type); }
