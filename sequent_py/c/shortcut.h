/* Shortcut: the commonest methods of a projector. Part of _native.c. */

/* The methods of a projector that are called most. What is not usual goes to the method itself. */
enum Method { CREATE, GET, FIND, UPDATE, METHODS };

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    State *state;
    int method;
    PyObject *tables;    /* dict from record to (Access, ((column, attribute of the event), ...)) */
    PyObject *otherwise;
} Shortcut;

/* What an update notes of its event. */
static PyObject *touched_by(PyObject *columns, PyObject *event) {
    PyObject *touched = PyDict_New();
    for (Py_ssize_t number = 0; touched != NULL && number < PyTuple_GET_SIZE(columns); number++) {
        PyObject *pair = PyTuple_GET_ITEM(columns, number), *value = PyObject_GetAttr(event, PyTuple_GET_ITEM(pair, 1));
        if (value == NULL || PyDict_SetItem(touched, PyTuple_GET_ITEM(pair, 0), value) < 0) Py_CLEAR(touched);
        Py_XDECREF(value);
    }
    return touched;
}

static PyObject *shortcut_update(const Shortcut *shortcut, PyObject *access, PyObject *columns, PyObject *event, PyObject *where) {
    if (PyDict_GET_SIZE(where) == 0) {
        PyObject *aggregate_id = PyObject_GetAttr(event, shortcut->state->str_aggregate_id);
        int outcome = aggregate_id == NULL ? -1 : PyDict_SetItem(where, shortcut->state->str_aggregate_id, aggregate_id);
        Py_XDECREF(aggregate_id);
        if (outcome < 0) return NULL;
    }
    PyObject *arguments[] = {where, touched_by(columns, event)};
    PyObject *update = arguments[1] == NULL ? NULL : access_update(access, arguments, 2);
    Py_XDECREF(arguments[1]);
    return update;
}

static PyObject *shortcut_call(PyObject *self, PyObject *const *arguments, size_t flags, PyObject *keywords) {
    const Shortcut *shortcut = (Shortcut *)self;
    Py_ssize_t given = PyVectorcall_NARGS(flags), named = keywords == NULL ? 0 : PyTuple_GET_SIZE(keywords);
    PyObject *entry = NULL, *where = NULL, *found = NULL;
    if (given == (shortcut->method == UPDATE ? 2 : 1) && PyType_Check(arguments[0]))
        entry = PyDict_GetItemWithError(shortcut->tables, arguments[0]);
    if (entry == NULL) {
        if (PyErr_Occurred()) return NULL;
        return PyObject_Vectorcall(shortcut->otherwise, arguments, flags, keywords);
    }
    where = PyDict_New();
    if (where == NULL) return NULL;
    for (Py_ssize_t number = 0; number < named; number++) {
        PyObject *name = PyTuple_GET_ITEM(keywords, number);
        if (shortcut->method == UPDATE) {
            int is_touch = PyUnicode_Compare(name, shortcut->state->str_touch) == 0;
            if (is_touch || PyErr_Occurred()) goto otherwise;
        }
        if (PyDict_SetItem(where, name, arguments[given + number]) < 0) goto done;
    }
    PyObject *access = PyTuple_GET_ITEM(entry, 0);
    if (shortcut->method == CREATE)
        found = access_create(access, where);
    else if (shortcut->method == UPDATE)
        found = shortcut_update(shortcut, access, PyTuple_GET_ITEM(entry, 1), arguments[1], where);
    else {
        PyObject *key = first_key((Access *)access, where);
        if (key == NULL) goto done;
        if (key != Py_None) {
            found = PyDict_GetItemWithError(((Access *)access)->rows, key);
            Py_XINCREF(found);
            if (found == NULL && !PyErr_Occurred()) PyErr_SetObject(PyExc_KeyError, key);
        } else if (shortcut->method == FIND)
            found = Py_NewRef(Py_None);
        Py_DECREF(key);
        if (key == Py_None && found == NULL) goto otherwise;
    }
done:
    Py_DECREF(where);
    return found;
otherwise:
    Py_DECREF(where);
    if (PyErr_Occurred()) return NULL;
    return PyObject_Vectorcall(shortcut->otherwise, arguments, flags, keywords);
}

static PyObject *shortcut_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *words[] = {"method", "tables", "otherwise", NULL};
    PyObject *tables, *otherwise, *entry;
    int method;
    State *state = state_of(type);
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "iO!O", words, &method, &PyDict_Type, &tables, &otherwise)) return NULL;
    if (method < 0 || method >= METHODS) { PyErr_SetString(PyExc_ValueError, "no such method"); return NULL; }
    Py_ssize_t position = 0;
    while (PyDict_Next(tables, &position, NULL, &entry)) {
        PyObject *columns = NULL;
        if (!PyTuple_Check(entry) || PyTuple_GET_SIZE(entry) != 2 || !Py_IS_TYPE(PyTuple_GET_ITEM(entry, 0), state->access)
            || !PyTuple_Check(columns = PyTuple_GET_ITEM(entry, 1))) {
            PyErr_SetString(PyExc_TypeError, "an access and pairs of names are needed");
            return NULL;
        }
        for (Py_ssize_t number = 0; number < PyTuple_GET_SIZE(columns); number++) {
            PyObject *pair = PyTuple_GET_ITEM(columns, number);
            if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) { PyErr_SetString(PyExc_TypeError, "pairs of names are needed"); return NULL; }
        }
    }
    Shortcut *shortcut = (Shortcut *)type->tp_alloc(type, 0);
    if (shortcut == NULL) return NULL;
    shortcut->vectorcall = shortcut_call;
    shortcut->state = state;
    shortcut->method = method;
    shortcut->tables = Py_NewRef(tables);
    shortcut->otherwise = Py_NewRef(otherwise);
    return (PyObject *)shortcut;
}

static int shortcut_traverse(PyObject *self, visitproc visit, void *arg) {
    Shortcut *shortcut = (Shortcut *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(shortcut->tables);
    Py_VISIT(shortcut->otherwise);
    return 0;
}

static int shortcut_clear(PyObject *self) {
    /* It is part of a circle: a projector, this, the projector's method. */
    Py_CLEAR(((Shortcut *)self)->otherwise);
    return 0;
}

static void shortcut_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(((Shortcut *)self)->tables);
    Py_XDECREF(((Shortcut *)self)->otherwise);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef shortcut_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Shortcut, vectorcall), READONLY, NULL}, {NULL},
};
static PyType_Slot shortcut_slots[] = {
    {Py_tp_new, shortcut_new}, {Py_tp_dealloc, shortcut_dealloc}, {Py_tp_traverse, shortcut_traverse}, {Py_tp_clear, shortcut_clear},
    {Py_tp_members, shortcut_members}, {Py_tp_call, PyVectorcall_Call}, {Py_tp_doc, "A projector's method, on rows in memory."}, {0, NULL},
};
static PyType_Spec shortcut_spec = {
    "sequent_py._native.Shortcut", sizeof(Shortcut), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL, shortcut_slots,
};
