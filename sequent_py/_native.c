/* Rows in memory, in C: what sequent_py.persistors generates as Python functions, for tables whose columns have common types.
 *
 * Optional. Every object here stands for one generated function (or one small class) and does exactly what that does; where it meets
 * something out of the ordinary it calls the Python it stands for. So there is one definition of behaviour, in Python, and this file is
 * only faster: a value of a common type is accepted here, and everything else goes to the column's own conversion.
 *
 * One translation unit in parts, in the order in which they need each other:
 *
 *   c/values.h    which values a column stores as they are, and what it makes of the commonest others: column_types.converter
 *   c/layout.h    Layout: the slots of a record's row classes: clone(row)
 *   c/buffer.h    bytes that grow
 *   c/numbers.h   numeric in binary
 *   c/loading.h   Layout: load(block)
 *   c/copying.h   Layout: dump(rows)
 *   c/creator.h   Creator: RowOperations.compile_create: a locked row of values, stored under its key and in its indexes
 *   c/finisher.h  Finisher: RowOperations.compile_finish: converts what an update's block has set, and says whether a key may have moved
 *   c/probe.h     Probe: RowOperations.compile_lookup: from filters to a key, or to what an index has under it
 *   c/access.h    Access: of one MemoryTable: first(where), create(values), update(where, touched)
 *   c/update.h    Update: blocks.MemoryUpdate, and MemoryUpsert where there is a row
 *   c/shortcut.h  Shortcut: Projector.create_record, get_record, find_record, update_record, create_or_update_record
 *   c/events.h    raw_event: reader.parse, of a block that is one row; Setter: events.set_envelope, is_recorded; moment: events.moment;
 *                 LazyMoment: the property events.Event.created_at
 *   c/texts.h     texts: exchange.Exchange.dump
 *   c/rowfold.h   RowFold: from the values that declared projections read to their rows, as bytes: declared.program
 *
 * Rows are instances of classes with __slots__; a slot is an object pointer at a fixed offset, NULL while it is not set.
 */

#include "c/state.h"
#include "c/values.h"
#include "c/layout.h"
#include "c/buffer.h"
#include "c/numbers.h"
#include "c/loading.h"
#include "c/copying.h"
#include "c/keys.h"
#include "c/creator.h"
#include "c/finisher.h"
#include "c/probe.h"
#include "c/access.h"
#include "c/update.h"
#include "c/shortcut.h"
#include "c/events.h"
#include "c/texts.h"
#include "c/rowfold.h"

static PyMethodDef module_methods[] = {
    {"moment", moment, METH_O, "Return the datetime in UTC so many microseconds after 2000-01-01."},
    {"raw_event", raw_event, METH_O, "Return the raw event of a block that is exactly one row; None of any other block."},
    {"texts", texts, METH_O, "Return values as the texts of parameters; None where one is of a rare type."},
    {NULL},
};

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **into) {
    *into = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *into == NULL ? -1 : PyModule_AddType(module, *into);
}

/* How UUIDs are made; fails where the class is not as we know it, and then there is no such module. */
static int find_uuid(State *state) {
    PyObject *module = PyImport_ImportModule("uuid"), *safety = NULL, *name_of_int = NULL, *name_of_safety = NULL;
    if (module == NULL) return -1;
    state->uuid_type = PyObject_GetAttrString(module, "UUID");
    safety = PyObject_GetAttrString(module, "SafeUUID");
    state->unknown_safety = safety == NULL ? NULL : PyObject_GetAttrString(safety, "unknown");
    name_of_int = PyUnicode_InternFromString("int");
    name_of_safety = PyUnicode_InternFromString("is_safe");
    int outcome = -1;
    if (state->uuid_type != NULL && state->unknown_safety != NULL && name_of_int != NULL && name_of_safety != NULL) {
        state->uuid_int = offset_of((PyTypeObject *)state->uuid_type, name_of_int);
        state->uuid_is_safe = state->uuid_int < 0 ? -1 : offset_of((PyTypeObject *)state->uuid_type, name_of_safety);
        outcome = state->uuid_is_safe < 0 ? -1 : 0;
    }
    Py_DECREF(module);
    Py_XDECREF(safety);
    Py_XDECREF(name_of_int);
    Py_XDECREF(name_of_safety);
    return outcome;
}

static int execute(PyObject *module) {
    State *state = PyModule_GetState(module);
    PyDateTime_IMPORT;
    if (PyDateTimeAPI == NULL) return -1;
    if (find_uuid(state) < 0) {
        PyErr_SetString(PyExc_ImportError, "UUIDs are made in a way that is not known here");
        return -1;
    }
    state->str_int = PyUnicode_InternFromString("int");
    state->str_first = PyUnicode_InternFromString("first");
    state->str_store = PyUnicode_InternFromString("store");
    state->str_class = PyUnicode_InternFromString("__class__");
    state->str_touch = PyUnicode_InternFromString("touch");
    state->str_utcoffset = PyUnicode_InternFromString("utcoffset");
    state->str_name = PyUnicode_InternFromString("_name_");
    PyObject *decimal = PyImport_ImportModule("decimal");
    state->decimal_type = decimal == NULL ? NULL : PyObject_GetAttrString(decimal, "Decimal");
    Py_XDECREF(decimal);
    state->by_aggregate = Py_BuildValue("(N)", PyUnicode_InternFromString("aggregate_id"));
    state->nothing = PyTuple_New(0);
    if (PyErr_Occurred()) return -1;
    if (PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0) return -1;
    if (add_type(module, &layout_spec, &state->layout) < 0 || add_type(module, &creator_spec, &state->creator) < 0
        || add_type(module, &finisher_spec, &state->finisher) < 0 || add_type(module, &probe_spec, &state->probe) < 0
        || add_type(module, &access_spec, &state->access) < 0 || add_type(module, &update_spec, &state->update) < 0
        || add_type(module, &shortcut_spec, &state->shortcut) < 0 || add_type(module, &setter_spec, &state->setter) < 0
        || add_type(module, &lazy_spec, &state->lazy_moment) < 0 || add_type(module, &rowfold_spec, &state->row_fold) < 0)
        return -1;
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    State *state = PyModule_GetState(module);
    Py_VISIT(state->uuid_type);
    Py_VISIT(state->unknown_safety);
    Py_VISIT(state->decimal_type);
    Py_VISIT(state->layout);
    Py_VISIT(state->creator);
    Py_VISIT(state->finisher);
    Py_VISIT(state->probe);
    Py_VISIT(state->access);
    Py_VISIT(state->update);
    Py_VISIT(state->shortcut);
    Py_VISIT(state->setter);
    Py_VISIT(state->lazy_moment);
    Py_VISIT(state->row_fold);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, execute}, {0, NULL}};
static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, .m_name = "sequent_py._native", .m_doc = "Rows in memory, in C.", .m_size = sizeof(State),
    .m_methods = module_methods, .m_slots = module_slots, .m_traverse = module_traverse,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&module_definition); }
