/* Access: the usual ways into a table in memory. Part of _native.c. */

typedef struct {
    PyObject_HEAD
    State *state;
    Layout *layout;
    PyObject *table; /* the MemoryTable: asked for limit and finish, which change, and for whatever is not usual */
    PyObject *rows, *probes, *creators, *convert, *bucket, *python_first, *python_create;
    PyObject *dirty, *gone, *complete; /* of the relation behind the rows; NULL where there is none */
} Access;

typedef struct {
    PyObject_HEAD
    Access *access;
    PyObject *where, *touched, *key, *before, *after;
} Update;

/* Names of the filters or values, in their order. */
static PyObject *names_of(PyObject *values) {
    if (!PyDict_CheckExact(values)) return PySequence_Tuple(values);
    PyObject *names = PyTuple_New(PyDict_GET_SIZE(values)), *name;
    Py_ssize_t position = 0, number = 0;
    if (names == NULL) return NULL;
    while (PyDict_Next(values, &position, &name, NULL)) PyTuple_SET_ITEM(names, number++, Py_NewRef(name));
    return names;
}

/* A new reference to the key of the first row that matches, or None. */
static PyObject *first_key(const Access *access, PyObject *where) {
    PyObject *names = names_of(where);
    PyObject *probe = names == NULL ? NULL : PyDict_GetItemWithError(access->probes, names);
    Py_XDECREF(names);
    if (probe == NULL && PyErr_Occurred()) return NULL;
    if (probe != NULL && Py_IS_TYPE(probe, access->state->probe)) {
        PyObject *found = run_probe((Probe *)probe, where, access->complete);
        if (found == NULL) return NULL;
        if ((PyObject *)Py_TYPE(found) == access->bucket) {
            PyObject *key = PyObject_CallMethodNoArgs(found, access->state->str_first);
            Py_DECREF(found);
            return key;
        }
        if (found != access->convert) return found;
        Py_DECREF(found);
    }
    return PyObject_CallOneArg(access->python_first, where);
}

static PyObject *access_first(PyObject *self, PyObject *where) { return first_key((Access *)self, where); }

static PyObject *access_create(PyObject *self, PyObject *values) {
    const Access *access = (Access *)self;
    PyObject *limit = PyObject_GetAttr(access->table, access->state->str_limit);
    Py_ssize_t most = limit == NULL ? -1 : PyLong_AsSsize_t(limit);
    Py_XDECREF(limit);
    if (most == -1 && PyErr_Occurred()) return NULL;
    if (PyDict_GET_SIZE(access->rows) < most) {
        PyObject *names = names_of(values);
        PyObject *creator = names == NULL ? NULL : PyDict_GetItemWithError(access->creators, names);
        Py_XDECREF(names);
        if (creator == NULL && PyErr_Occurred()) return NULL;
        if (creator != NULL && Py_IS_TYPE(creator, access->state->creator)) {
            /* It may be replaced while it runs a conversion. */
            Py_INCREF(creator);
            PyObject *row = creator_call(creator, &values, 1, NULL);
            Py_DECREF(creator);
            return row;
        }
    }
    return PyObject_CallOneArg(access->python_create, values);
}

static PyObject *access_back(PyObject *self, PyObject *arguments) {
    Access *access = (Access *)self;
    PyObject *dirty = NULL, *gone = NULL, *complete = NULL;
    if (PyTuple_GET_SIZE(arguments) != 0
        && !PyArg_ParseTuple(arguments, "O!O!O!", &PyDict_Type, &dirty, &PyDict_Type, &gone, &PySet_Type, &complete))
        return NULL;
    Py_XSETREF(access->dirty, Py_XNewRef(dirty));
    Py_XSETREF(access->gone, Py_XNewRef(gone));
    Py_XSETREF(access->complete, Py_XNewRef(complete));
    Py_RETURN_NONE;
}

static PyObject *access_update(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    Access *access = (Access *)self;
    if (count != 2) { PyErr_SetString(PyExc_TypeError, "filters and what an update notes are needed"); return NULL; }
    PyTypeObject *type = access->state->update;
    Update *update = (Update *)type->tp_alloc(type, 0);
    if (update == NULL) return NULL;
    update->access = (Access *)Py_NewRef(self);
    update->where = Py_NewRef(arguments[0]);
    update->touched = Py_NewRef(arguments[1]);
    return (PyObject *)update;
}

static PyObject *access_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *words[] = {"layout", "table", "rows", "probes", "creators", "convert", "bucket", "first", "create", NULL};
    PyObject *layout, *table, *rows, *probes, *creators, *convert, *bucket, *first, *create;
    State *state = state_of(type);
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!OO!O!O!OOOO", words, state->layout, &layout, &table, &PyDict_Type, &rows,
                                     &PyDict_Type, &probes, &PyDict_Type, &creators, &convert, &bucket, &first, &create))
        return NULL;
    Access *access = (Access *)type->tp_alloc(type, 0);
    if (access == NULL) return NULL;
    access->state = state;
    access->layout = (Layout *)Py_NewRef(layout);
    access->table = Py_NewRef(table);
    access->rows = Py_NewRef(rows);
    access->probes = Py_NewRef(probes);
    access->creators = Py_NewRef(creators);
    access->convert = Py_NewRef(convert);
    access->bucket = Py_NewRef(bucket);
    access->python_first = Py_NewRef(first);
    access->python_create = Py_NewRef(create);
    return (PyObject *)access;
}

static int access_traverse(PyObject *self, visitproc visit, void *arg) {
    Access *access = (Access *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(access->layout);
    Py_VISIT(access->table);
    Py_VISIT(access->rows);
    Py_VISIT(access->probes);
    Py_VISIT(access->creators);
    Py_VISIT(access->convert);
    Py_VISIT(access->bucket);
    Py_VISIT(access->python_first);
    Py_VISIT(access->python_create);
    Py_VISIT(access->dirty);
    Py_VISIT(access->gone);
    Py_VISIT(access->complete);
    return 0;
}

static void access_dealloc(PyObject *self) {
    Access *access = (Access *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(access->layout);
    Py_XDECREF(access->table);
    Py_XDECREF(access->rows);
    Py_XDECREF(access->probes);
    Py_XDECREF(access->creators);
    Py_XDECREF(access->convert);
    Py_XDECREF(access->bucket);
    Py_XDECREF(access->python_first);
    Py_XDECREF(access->python_create);
    Py_XDECREF(access->dirty);
    Py_XDECREF(access->gone);
    Py_XDECREF(access->complete);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef access_methods[] = {
    {"first", access_first, METH_O, "Return the lowest key among matching rows; None where no row matches."},
    {"create", access_create, METH_O, "Make, store and return a row."},
    {"update", (PyCFunction)(void (*)(void))access_update, METH_FASTCALL, "Return the block of an update."},
    {"back", access_back, METH_VARARGS, "Take dirty, gone and complete of the relation that is behind the rows from now on; nothing: there is none."},
    {NULL},
};
static PyType_Slot access_slots[] = {
    {Py_tp_new, access_new}, {Py_tp_dealloc, access_dealloc}, {Py_tp_traverse, access_traverse}, {Py_tp_methods, access_methods},
    {Py_tp_doc, "The usual ways into a table in memory."}, {0, NULL},
};
static PyType_Spec access_spec = {"sequent_py._native.Access", sizeof(Access), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, access_slots};
