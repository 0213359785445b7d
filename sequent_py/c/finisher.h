/* Finisher: converts what the block of an update has set. Part of _native.c. */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Layout *layout;
    Columns keys;
} Finisher;

/* 1: a column of a key may have changed, 0: none has, -1: error. */
static int finish_row(const Finisher *finisher, PyObject *after, PyObject *before) {
    const Layout *layout = finisher->layout;
    if (check_row(layout, after) < 0 || check_row(layout, before) < 0) return -1;
    for (Py_ssize_t column = 0; column < layout->size; column++) {
        PyObject *value = value_of(layout, after, column), *was = value_of(layout, before, column);
        if (value == NULL || was == NULL) return -1;
        if (value == was || (is_mutable(layout->kinds[column]) ? is_still(value, was) : accepts(layout, column, value))) continue;
        Py_INCREF(value); /* its conversion may run Python */
        int outcome = set_column(layout, after, column, converted(layout, column, value));
        Py_DECREF(value);
        if (outcome < 0) return -1;
    }
    for (Py_ssize_t number = 0; number < finisher->keys.size; number++) {
        Py_ssize_t column = finisher->keys.columns[number];
        if (*slot_of(layout, after, column) != *slot_of(layout, before, column)) return 1;
    }
    return 0;
}

static PyObject *finisher_call(PyObject *self, PyObject *const *arguments, size_t flags, PyObject *keywords) {
    if (PyVectorcall_NARGS(flags) != 2 || keywords != NULL) {
        PyErr_SetString(PyExc_TypeError, "two rows are needed: after and before");
        return NULL;
    }
    int outcome = finish_row((Finisher *)self, arguments[0], arguments[1]);
    return outcome < 0 ? NULL : PyBool_FromLong(outcome);
}

static PyObject *finisher_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *words[] = {"layout", "keys", NULL};
    PyObject *layout, *keys;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!O!", words, state_of(type)->layout, &layout, &PyTuple_Type, &keys)) return NULL;
    Finisher *finisher = (Finisher *)type->tp_alloc(type, 0);
    if (finisher == NULL) return NULL;
    finisher->vectorcall = finisher_call;
    finisher->layout = (Layout *)Py_NewRef(layout);
    if (read_columns(finisher->layout, keys, &finisher->keys) < 0) { Py_DECREF(finisher); return NULL; }
    return (PyObject *)finisher;
}

static int finisher_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Finisher *)self)->layout);
    return 0;
}

static void finisher_dealloc(PyObject *self) {
    Finisher *finisher = (Finisher *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    PyMem_Free(finisher->keys.columns);
    Py_XDECREF(finisher->layout);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef finisher_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Finisher, vectorcall), READONLY, NULL}, {NULL},
};
static PyType_Slot finisher_slots[] = {
    {Py_tp_new, finisher_new}, {Py_tp_dealloc, finisher_dealloc}, {Py_tp_traverse, finisher_traverse},
    {Py_tp_members, finisher_members}, {Py_tp_call, PyVectorcall_Call}, {Py_tp_doc, "Converts what an update's block has set."}, {0, NULL},
};
static PyType_Spec finisher_spec = {
    "sequent_py._native.Finisher", sizeof(Finisher), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL, finisher_slots,
};
