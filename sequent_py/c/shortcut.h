/* Shortcut: the commonest methods of a projector. Part of _native.c. */

/* The methods of a projector that are called most. What is not usual goes to the method itself. */
enum Method { CREATE, GET, FIND, UPDATE, CREATE_OR_UPDATE, METHODS };

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    State *state;
    int method;
    PyObject *tables;    /* dict from record to (Access, columns that an update notes of its event, their attributes of the event) */
    PyObject *otherwise;
} Shortcut;

/* Attributes of an event, in a new tuple. */
static PyObject *attributes_of(PyObject *event, PyObject *names) {
    PyObject *values = PyTuple_New(PyTuple_GET_SIZE(names));
    for (Py_ssize_t number = 0; values != NULL && number < PyTuple_GET_SIZE(names); number++) {
        PyObject *value = PyObject_GetAttr(event, PyTuple_GET_ITEM(names, number));
        if (value == NULL) Py_CLEAR(values);
        else PyTuple_SET_ITEM(values, number, value);
    }
    return values;
}

/* Without filters the row of the event's aggregate is meant. There may be no event. */
static PyObject *shortcut_update(const Shortcut *shortcut, PyObject *entry, PyObject *event, PyObject *names, PyObject *const *values) {
    PyObject *filters, *noted, *columns = event == NULL ? shortcut->state->nothing : PyTuple_GET_ITEM(entry, 1);
    if (PyTuple_GET_SIZE(names) == 0) {
        names = shortcut->state->by_aggregate;
        filters = attributes_of(event, names);
    } else {
        filters = PyTuple_New(PyTuple_GET_SIZE(names));
        for (Py_ssize_t number = 0; filters != NULL && number < PyTuple_GET_SIZE(names); number++)
            PyTuple_SET_ITEM(filters, number, Py_NewRef(values[number]));
    }
    noted = filters == NULL ? NULL : event == NULL ? Py_NewRef(columns) : attributes_of(event, PyTuple_GET_ITEM(entry, 2));
    if (noted == NULL) { Py_XDECREF(filters); return NULL; }
    return new_update(PyTuple_GET_ITEM(entry, 0), Py_NewRef(names), filters, Py_NewRef(columns), noted, shortcut->method == CREATE_OR_UPDATE);
}

/* NULL without an exception: there is no such row. */
static PyObject *shortcut_read(Access *access, PyObject *names, PyObject *const *values) {
    PyObject *key = first_key(access, names, values);
    PyObject *found = NULL;
    if (key != NULL && key != Py_None) {
        found = PyDict_GetItemWithError(access->rows, key);
        Py_XINCREF(found);
        if (found == NULL && !PyErr_Occurred()) PyErr_SetObject(PyExc_KeyError, key);
    }
    Py_XDECREF(key);
    return detached(access->layout, found);
}

/* 1: touch is among the names, which are no filters then; -1: error. */
static int has_touch(const Shortcut *shortcut, PyObject *names) {
    for (Py_ssize_t number = 0; number < PyTuple_GET_SIZE(names); number++) {
        if (PyUnicode_Compare(PyTuple_GET_ITEM(names, number), shortcut->state->str_touch) == 0) return 1;
        if (PyErr_Occurred()) return -1;
    }
    return 0;
}

static PyObject *shortcut_call(PyObject *self, PyObject *const *arguments, size_t flags, PyObject *keywords) {
    const Shortcut *shortcut = (Shortcut *)self;
    Py_ssize_t given = PyVectorcall_NARGS(flags);
    PyObject *names = keywords == NULL ? shortcut->state->nothing : keywords, *const *values = arguments + given;
    PyObject *entry = NULL, *found = NULL;
    int is_block = shortcut->method == UPDATE || shortcut->method == CREATE_OR_UPDATE;
    PyObject *event = is_block && given == 2 ? arguments[1] : NULL;
    /* A row may be created or updated without an event, if there are filters. */
    int is_without = shortcut->method == CREATE_OR_UPDATE && PyTuple_GET_SIZE(names) > 0 && given == 1;
    if (given == (is_block && !is_without ? 2 : 1) && PyType_Check(arguments[0]) && !(shortcut->method == CREATE_OR_UPDATE && event == Py_None))
        entry = PyDict_GetItemWithError(shortcut->tables, arguments[0]);
    if (entry != NULL) {
        Access *access = (Access *)PyTuple_GET_ITEM(entry, 0);
        int is_unusual = 0;
        if (shortcut->method == CREATE) return create_row(access, names, values);
        if (is_block) {
            is_unusual = has_touch(shortcut, names);
            if (is_unusual == 0) return shortcut_update(shortcut, entry, event, names, values);
        } else {
            found = shortcut_read(access, names, values);
            if (found != NULL || PyErr_Occurred()) return found;
            if (shortcut->method == FIND) Py_RETURN_NONE;
        }
    }
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
        if (!PyTuple_Check(entry) || PyTuple_GET_SIZE(entry) != 3 || !Py_IS_TYPE(PyTuple_GET_ITEM(entry, 0), state->access)
            || !PyTuple_Check(PyTuple_GET_ITEM(entry, 1)) || !PyTuple_Check(PyTuple_GET_ITEM(entry, 2))
            || PyTuple_GET_SIZE(PyTuple_GET_ITEM(entry, 1)) != PyTuple_GET_SIZE(PyTuple_GET_ITEM(entry, 2))) {
            PyErr_SetString(PyExc_TypeError, "an access, columns and as many attributes are needed");
            return NULL;
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
