/* Events: raw ones from a block of COPY, their envelope, and the moment of their recording. Part of _native.c. */

#define FIXED 70 /* field count, and five fields of fixed size with their lengths, and the payload's length */

#define FIELDS 7

/* A tuple of the fields, whose references it takes; NULL where one of them is. */
static PyObject *filled(PyObject *const *fields) {
    PyObject *tuple = PyTuple_New(FIELDS);
    int is_complete = tuple != NULL;
    for (int number = 0; number < FIELDS; number++) {
        is_complete = is_complete && fields[number] != NULL;
        if (tuple != NULL) PyTuple_SET_ITEM(tuple, number, fields[number]);
        else Py_XDECREF(fields[number]);
    }
    if (!is_complete) Py_CLEAR(tuple);
    return tuple;
}

/* raw_event(block): the raw event of a block that is exactly one row of seven fields; None of any other. */
static PyObject *raw_event(PyObject *module, PyObject *block) {
    Py_buffer view;
    if (PyObject_GetBuffer(block, &view, PyBUF_SIMPLE) < 0) return NULL;
    const unsigned char *data = view.buf;
    PyObject *found = NULL;
    if (view.len >= FIXED && get(data, 2) == FIELDS && get(data + 2, 4) == 8 && get(data + 14, 4) == 8 && get(data + 26, 4) == 16
        && get(data + 46, 4) == 4 && get(data + 54, 4) == 4) {
        long long payload = (int)get(data + 62, 4), metadata_at = 66 + payload;
        if (payload >= 1 && metadata_at + 4 <= view.len) {
            long long metadata = (int)get(data + metadata_at, 4);
            if (metadata >= 1 && metadata_at + 4 + metadata == view.len)
                /* The first byte of a jsonb is its version. */
                found = filled((PyObject *[]){
                    PyLong_FromLongLong((long long)get(data + 6, 8)), PyLong_FromLongLong((long long)get(data + 18, 8)),
                    PyBytes_FromStringAndSize((const char *)data + 30, 16), PyLong_FromLong((int)get(data + 50, 4)),
                    PyLong_FromLong((int)get(data + 58, 4)), PyBytes_FromStringAndSize((const char *)data + 67, (Py_ssize_t)(payload - 1)),
                    PyBytes_FromStringAndSize((const char *)data + metadata_at + 5, (Py_ssize_t)(metadata - 1)),
                });
        }
    }
    PyBuffer_Release(&view);
    if (found == NULL && !PyErr_Occurred()) Py_RETURN_NONE;
    return found;
}

/* ------------------------------------------------------------------ Setter */

#define MOST_SLOTS 8

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyTypeObject *cls;
    Py_ssize_t size, offsets[MOST_SLOTS];
} Setter;

static PyObject *setter_call(PyObject *self, PyObject *const *arguments, size_t flags, PyObject *keywords) {
    Setter *setter = (Setter *)self;
    if (PyVectorcall_NARGS(flags) != setter->size + 1 || keywords != NULL) {
        PyErr_Format(PyExc_TypeError, "an object and %zd values are needed", setter->size);
        return NULL;
    }
    if (!PyObject_TypeCheck(arguments[0], setter->cls)) {
        PyErr_Format(PyExc_TypeError, "a %s is needed, not %.80R", setter->cls->tp_name, arguments[0]);
        return NULL;
    }
    for (Py_ssize_t number = 0; number < setter->size; number++) {
        PyObject **slot = (PyObject **)((char *)arguments[0] + setter->offsets[number]);
        PyObject *before = *slot;
        *slot = Py_NewRef(arguments[number + 1]);
        Py_XDECREF(before);
    }
    Py_RETURN_NONE;
}

/* has_set(object): whether the object has been given its values: they are all set, or none. */
static PyObject *setter_has_set(PyObject *self, PyObject *instance) {
    Setter *setter = (Setter *)self;
    if (!PyObject_TypeCheck(instance, setter->cls)) {
        PyErr_Format(PyExc_TypeError, "a %s is needed, not %.80R", setter->cls->tp_name, instance);
        return NULL;
    }
    return PyBool_FromLong(*(PyObject **)((char *)instance + setter->offsets[setter->size - 1]) != NULL);
}

static PyObject *setter_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *words[] = {"cls", "names", NULL};
    PyObject *cls, *names;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!O!", words, &PyType_Type, &cls, &PyTuple_Type, &names)) return NULL;
    if (PyTuple_GET_SIZE(names) < 1 || PyTuple_GET_SIZE(names) > MOST_SLOTS) {
        PyErr_SetString(PyExc_ValueError, "from 1 to 8 slots are needed");
        return NULL;
    }
    Setter *setter = (Setter *)type->tp_alloc(type, 0);
    if (setter == NULL) return NULL;
    setter->vectorcall = setter_call;
    setter->cls = (PyTypeObject *)Py_NewRef(cls);
    setter->size = PyTuple_GET_SIZE(names);
    for (Py_ssize_t number = 0; number < setter->size; number++) {
        setter->offsets[number] = offset_of(setter->cls, PyTuple_GET_ITEM(names, number));
        if (setter->offsets[number] < 0) { Py_DECREF(setter); return NULL; }
    }
    return (PyObject *)setter;
}

static int setter_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Setter *)self)->cls);
    return 0;
}

static void setter_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(((Setter *)self)->cls);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef setter_methods[] = {
    {"has_set", setter_has_set, METH_O, "Return whether the object has been given its values."}, {NULL},
};
static PyMemberDef setter_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Setter, vectorcall), READONLY, NULL}, {NULL},
};
static PyType_Slot setter_slots[] = {
    {Py_tp_new, setter_new}, {Py_tp_dealloc, setter_dealloc}, {Py_tp_traverse, setter_traverse},
    {Py_tp_methods, setter_methods}, {Py_tp_members, setter_members}, {Py_tp_call, PyVectorcall_Call}, {Py_tp_doc, "Sets slots of an object."}, {0, NULL},
};
static PyType_Spec setter_spec = {
    "sequent_py._native.Setter", sizeof(Setter), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL, setter_slots,
};

/* ------------------------------------------------------------------ LazyMoment */

/* moment(microseconds): the datetime in UTC so long after 2000-01-01; OverflowError outside the years 1 to 9999. */
static PyObject *moment(PyObject *module, PyObject *microseconds) {
    long long number = PyLong_AsLongLong(microseconds);
    return number == -1 && PyErr_Occurred() ? NULL : moment_of(number);
}

typedef struct {
    PyObject_HEAD
    PyTypeObject *cls;
    PyObject *name;
    Py_ssize_t offset;
} LazyMoment;

/* An int in the slot is what moment() takes: it is converted when it is first read. */
static PyObject *lazy_get(PyObject *self, PyObject *instance, PyObject *ignored) {
    LazyMoment *lazy = (LazyMoment *)self;
    if (instance == NULL || instance == Py_None) return Py_NewRef(self);
    if (!PyObject_TypeCheck(instance, lazy->cls)) {
        PyErr_Format(PyExc_TypeError, "a %s is needed, not %.80R", lazy->cls->tp_name, instance);
        return NULL;
    }
    PyObject **slot = (PyObject **)((char *)instance + lazy->offset);
    if (*slot == NULL) { PyErr_SetObject(PyExc_AttributeError, lazy->name); return NULL; }
    if (PyLong_CheckExact(*slot)) {
        PyObject *converted = moment(NULL, *slot);
        if (converted == NULL) return NULL;
        Py_SETREF(*slot, converted);
    }
    return Py_NewRef(*slot);
}

static int lazy_set(PyObject *self, PyObject *instance, PyObject *value) {
    PyErr_SetString(PyExc_AttributeError, "it can only be read");
    return -1;
}

static PyObject *lazy_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *words[] = {"cls", "name", NULL};
    PyObject *cls, *name;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!U", words, &PyType_Type, &cls, &name)) return NULL;
    Py_ssize_t offset = offset_of((PyTypeObject *)cls, name);
    if (offset < 0) return NULL;
    LazyMoment *lazy = (LazyMoment *)type->tp_alloc(type, 0);
    if (lazy == NULL) return NULL;
    lazy->cls = (PyTypeObject *)Py_NewRef(cls);
    lazy->name = Py_NewRef(name);
    lazy->offset = offset;
    return (PyObject *)lazy;
}

static int lazy_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((LazyMoment *)self)->cls);
    return 0;
}

static int lazy_clear(PyObject *self) {
    Py_CLEAR(((LazyMoment *)self)->cls);
    return 0;
}

static void lazy_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    lazy_clear(self);
    Py_XDECREF(((LazyMoment *)self)->name);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot lazy_slots[] = {
    {Py_tp_new, lazy_new}, {Py_tp_dealloc, lazy_dealloc}, {Py_tp_traverse, lazy_traverse}, {Py_tp_clear, lazy_clear},
    {Py_tp_descr_get, lazy_get}, {Py_tp_descr_set, lazy_set}, {Py_tp_doc, "Reads a slot that holds a moment, or its microseconds."}, {0, NULL},
};
static PyType_Spec lazy_spec = {"sequent_py._native.LazyMoment", sizeof(LazyMoment), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, lazy_slots};
