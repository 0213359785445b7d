/* Creator: makes rows of values, and stores them. Part of _native.c. */

/* Where a column's value comes from that is not given; see RowOperations._default_sources. */
enum Source { NULL_VALUE, CONSTANT, COPIED_CONSTANT, PYTHON_DEFAULT, DRAWN, REFUSED, SOURCES };

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Layout *layout;
    Columns given, others, key;
    int *sources;             /* of others */
    PyObject *values;         /* tuple: constants, or what is called, of others */
    PyObject *rows;           /* dict from key to row, or NULL */
    PyObject *indexes;        /* tuple of (names, entries, collide) */
    Columns *index_columns;
    PyObject *dirty, *gone;   /* dicts by key, where a relation is behind the rows, or NULL */
    PyObject *duplicate;
} Creator;

static int set_column(const Layout *layout, PyObject *row, Py_ssize_t column, PyObject *value) {
    if (value == NULL) return -1;
    Py_XSETREF(*slot_of(layout, row, column), value);
    return 0;
}

static int fill_defaults(const Creator *creator, PyObject *row) {
    const Layout *layout = creator->layout;
    /* All conversions come before the first draw: a row that is refused uses up no number. */
    for (Py_ssize_t number = 0; number < creator->others.size; number++) {
        Py_ssize_t column = creator->others.columns[number];
        PyObject *from = PyTuple_GET_ITEM(creator->values, number), *value;
        switch (creator->sources[number]) {
        case PYTHON_DEFAULT:
            value = PyObject_CallNoArgs(from);
            if (value == NULL) return -1;
            Py_SETREF(value, converted(layout, column, value));
            break;
        case REFUSED: value = PyObject_CallOneArg(PyTuple_GET_ITEM(layout->coerces, column), Py_None); break;
        case COPIED_CONSTANT: value = PyObject_CallOneArg(PyTuple_GET_ITEM(layout->coerces, column), from); break;
        case CONSTANT: value = Py_NewRef(from); break;
        case DRAWN: continue;
        default: value = Py_NewRef(Py_None);
        }
        if (set_column(layout, row, column, value) < 0) return -1;
    }
    for (Py_ssize_t number = 0; number < creator->others.size; number++)
        if (creator->sources[number] == DRAWN
            && set_column(layout, row, creator->others.columns[number], PyObject_CallNoArgs(PyTuple_GET_ITEM(creator->values, number))) < 0)
            return -1;
    return 0;
}

/* A row in memory is new or other than that of the relation behind it. */
static int note_changed(PyObject *dirty, PyObject *gone, PyObject *key) {
    if (PyDict_SetItem(dirty, key, Py_None) < 0) return -1;
    if (PyDict_GET_SIZE(gone) == 0) return 0;
    int was_gone = PyDict_Contains(gone, key);
    return was_gone > 0 ? PyDict_DelItem(gone, key) : was_gone;
}

static int enter_row(const Creator *creator, PyObject *row) {
    PyObject *key = key_of(creator->layout, &creator->key, row);
    if (key == NULL) return -1;
    PyObject *found = PyDict_SetDefault(creator->rows, key, row);
    if (found == NULL) goto fail;
    if (found != row) {
        PyObject *error = PyObject_CallOneArg(creator->duplicate, row);
        if (error != NULL) PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_XDECREF(error);
        goto fail;
    }
    for (Py_ssize_t number = 0; number < PyTuple_GET_SIZE(creator->indexes); number++) {
        PyObject *index = PyTuple_GET_ITEM(creator->indexes, number);
        PyObject *value = key_of(creator->layout, &creator->index_columns[number], row);
        if (value == NULL) goto fail;
        found = PyDict_SetDefault(PyTuple_GET_ITEM(index, 1), value, key);
        if (found != NULL && found != key) {
            PyObject *outcome = PyObject_CallFunctionObjArgs(PyTuple_GET_ITEM(index, 2), value, found, key, NULL);
            Py_XDECREF(outcome);
            if (outcome == NULL) found = NULL;
        }
        Py_DECREF(value);
        if (found == NULL) goto fail;
    }
    if (creator->dirty != NULL && note_changed(creator->dirty, creator->gone, key) < 0) goto fail;
    Py_DECREF(key);
    return 0;
fail:
    Py_DECREF(key);
    return -1;
}

/* Completes a row that has the given values, stores it and returns it; its reference is the caller's. */
static PyObject *completed(const Creator *creator, PyObject *row) {
    if (fill_defaults(creator, row) < 0 || (creator->rows != NULL && enter_row(creator, row) < 0)) Py_CLEAR(row);
    return row;
}

/* A row of as many values as there are given columns, in their order. */
static PyObject *row_of_values(const Creator *creator, PyObject *const *values) {
    const Layout *layout = creator->layout;
    PyObject *row = layout->locked->tp_alloc(layout->locked, 0);
    if (row == NULL) return NULL;
    for (Py_ssize_t number = 0; number < creator->given.size; number++) {
        Py_ssize_t column = creator->given.columns[number];
        if (set_column(layout, row, column, converted(layout, column, values[number])) < 0) {
            Py_DECREF(row);
            return NULL;
        }
    }
    return completed(creator, row);
}

static PyObject *creator_call(PyObject *self, PyObject *const *arguments, size_t flags, PyObject *keywords) {
    const Creator *creator = (Creator *)self;
    const Layout *layout = creator->layout;
    PyObject *values = PyVectorcall_NARGS(flags) == 1 && keywords == NULL ? arguments[0] : NULL;
    if (values == NULL || !PyDict_CheckExact(values) || PyDict_GET_SIZE(values) != creator->given.size) {
        PyErr_SetString(PyExc_TypeError, "a dict with a value for every given column is needed");
        return NULL;
    }
    PyObject *row = layout->locked->tp_alloc(layout->locked, 0);
    if (row == NULL) return NULL;
    Py_ssize_t position = 0, number = 0;
    PyObject *name, *value;
    while (PyDict_Next(values, &position, &name, &value)) {
        /* Conversions may run Python; the caller's dictionary is its own, so it stays as it is. */
        if (number >= creator->given.size) break;
        Py_ssize_t column = creator->given.columns[number++];
        if (set_column(layout, row, column, converted(layout, column, value)) < 0) {
            Py_DECREF(row);
            return NULL;
        }
    }
    return completed(creator, row);
}

static PyObject *creator_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *words[] = {"layout", "given", "others", "sources", "values", "key", "rows", "indexes", "dirty", "gone", "duplicate", NULL};
    PyObject *layout, *given, *others, *sources, *values, *key, *rows, *indexes, *dirty, *gone, *duplicate;
    State *state = state_of(type);
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!O!O!O!O!O!OO!OOO", words, state->layout, &layout, &PyTuple_Type, &given,
                                     &PyTuple_Type, &others, &PyTuple_Type, &sources, &PyTuple_Type, &values, &PyTuple_Type, &key, &rows,
                                     &PyTuple_Type, &indexes, &dirty, &gone, &duplicate))
        return NULL;
    if ((rows != Py_None && !PyDict_CheckExact(rows)) || (dirty != Py_None && !(PyDict_CheckExact(dirty) && PyDict_CheckExact(gone)))) {
        PyErr_SetString(PyExc_TypeError, "rows, dirty and gone are dicts");
        return NULL;
    }
    Creator *creator = (Creator *)type->tp_alloc(type, 0);
    if (creator == NULL) return NULL;
    creator->vectorcall = creator_call;
    creator->layout = (Layout *)Py_NewRef(layout);
    creator->values = Py_NewRef(values);
    creator->rows = rows == Py_None ? NULL : Py_NewRef(rows);
    creator->indexes = Py_NewRef(indexes);
    creator->dirty = dirty == Py_None ? NULL : Py_NewRef(dirty);
    creator->gone = dirty == Py_None ? NULL : Py_NewRef(gone);
    creator->duplicate = Py_NewRef(duplicate);
    Py_ssize_t count = PyTuple_GET_SIZE(indexes);
    creator->index_columns = PyMem_Calloc((size_t)count + 1, sizeof(Columns));
    creator->sources = PyMem_New(int, PyTuple_GET_SIZE(others) + 1);
    if (creator->index_columns == NULL || creator->sources == NULL) { PyErr_NoMemory(); goto fail; }
    if (read_columns(creator->layout, given, &creator->given) < 0 || read_columns(creator->layout, others, &creator->others) < 0
        || read_columns(creator->layout, key, &creator->key) < 0 || !are_keys(creator->layout, &creator->key)
        || read_numbers(sources, creator->sources, creator->others.size, SOURCES) < 0)
        goto fail;
    if (PyTuple_GET_SIZE(values) != creator->others.size || creator->given.size + creator->others.size != creator->layout->size) {
        PyErr_SetString(PyExc_ValueError, "every column needs one source");
        goto fail;
    }
    for (Py_ssize_t number = 0; number < count; number++) {
        PyObject *names, *entries, *collide;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(indexes, number), "O!O!O", &PyTuple_Type, &names, &PyDict_Type, &entries, &collide)
            || read_columns(creator->layout, names, &creator->index_columns[number]) < 0
            || !are_keys(creator->layout, &creator->index_columns[number]))
            goto fail;
    }
    return (PyObject *)creator;
fail:
    Py_DECREF(creator);
    return NULL;
}

static int creator_traverse(PyObject *self, visitproc visit, void *arg) {
    Creator *creator = (Creator *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(creator->layout);
    Py_VISIT(creator->values);
    Py_VISIT(creator->rows);
    Py_VISIT(creator->indexes);
    Py_VISIT(creator->dirty);
    Py_VISIT(creator->gone);
    Py_VISIT(creator->duplicate);
    return 0;
}

static void creator_dealloc(PyObject *self) {
    Creator *creator = (Creator *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (creator->index_columns != NULL)
        for (Py_ssize_t number = 0; number < PyTuple_GET_SIZE(creator->indexes); number++)
            PyMem_Free(creator->index_columns[number].columns);
    PyMem_Free(creator->index_columns);
    PyMem_Free(creator->sources);
    PyMem_Free(creator->given.columns);
    PyMem_Free(creator->others.columns);
    PyMem_Free(creator->key.columns);
    Py_XDECREF(creator->layout);
    Py_XDECREF(creator->values);
    Py_XDECREF(creator->rows);
    Py_XDECREF(creator->indexes);
    Py_XDECREF(creator->dirty);
    Py_XDECREF(creator->gone);
    Py_XDECREF(creator->duplicate);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef creator_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Creator, vectorcall), READONLY, NULL}, {NULL},
};
static PyType_Slot creator_slots[] = {
    {Py_tp_new, creator_new}, {Py_tp_dealloc, creator_dealloc}, {Py_tp_traverse, creator_traverse}, {Py_tp_members, creator_members},
    {Py_tp_call, PyVectorcall_Call}, {Py_tp_doc, "Makes locked rows of values, and stores them."}, {0, NULL},
};
static PyType_Spec creator_spec = {
    "sequent_py._native.Creator", sizeof(Creator), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL, creator_slots,
};
