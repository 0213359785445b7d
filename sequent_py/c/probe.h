/* Probe: from filters to what an index has. Part of _native.c. */

#define MOST_FILTERS 16

/* What a probe answers with: the key where the container has it, or what the container has under it; else None. */
enum Answer { KNOWN_KEY, ENTRY, ANSWERS };

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Layout *layout;
    Columns given; /* in the order of the filters */
    Columns parts; /* of the key: positions among the filters */
    int answer;
    int is_by_aggregate; /* whether the key is an aggregate's id, and nothing else */
    PyObject *container, *otherwise;
} Probe;

static PyObject *probe_key(const Probe *probe, PyObject *const *values) {
    const Layout *layout = probe->layout;
    if (probe->parts.size == 1) {
        Py_ssize_t at = probe->parts.columns[0];
        return part_of(layout, probe->given.columns[at], values[at]);
    }
    PyObject *key = PyTuple_New(probe->parts.size);
    if (key == NULL) return NULL;
    for (Py_ssize_t number = 0; number < probe->parts.size; number++) {
        Py_ssize_t at = probe->parts.columns[number];
        PyObject *part = part_of(layout, probe->given.columns[at], values[at]);
        if (part == NULL) { Py_DECREF(key); return NULL; }
        PyTuple_SET_ITEM(key, number, part);
    }
    return key;
}

/* From values in the order of the filters. With complete, the aggregates of which every row is in memory, a relation is behind the rows: otherwise then also
   stands for what memory cannot decide. */
static PyObject *probe_values(const Probe *probe, PyObject *const *values, PyObject *complete) {
    for (Py_ssize_t number = 0; number < probe->given.size; number++) {
        Py_ssize_t column = probe->given.columns[number];
        int is_null = values[number] == Py_None && probe->layout->columns[column].is_nullable;
        if (!is_null && !accepts(probe->layout, column, values[number])) return Py_NewRef(probe->otherwise);
    }
    PyObject *key = probe_key(probe, values);
    if (key == NULL) return NULL;
    PyObject *found = PyDict_GetItemWithError(probe->container, key);
    if (found == NULL && PyErr_Occurred()) { Py_DECREF(key); return NULL; }
    /* A row that is found by its primary key is the only one, whatever the relation has. */
    int is_decided = complete == NULL || (found != NULL && probe->answer == KNOWN_KEY);
    if (!is_decided && probe->is_by_aggregate) is_decided = PySet_Contains(complete, key);
    if (is_decided < 0) found = NULL;
    else if (!is_decided) found = Py_NewRef(probe->otherwise);
    else found = Py_NewRef(found == NULL ? Py_None : probe->answer == ENTRY ? found : key);
    Py_DECREF(key);
    return found;
}

static PyObject *probe_call(PyObject *self, PyObject *const *arguments, size_t flags, PyObject *keywords) {
    if (PyVectorcall_NARGS(flags) != 1 || keywords != NULL) {
        PyErr_SetString(PyExc_TypeError, "filters are needed");
        return NULL;
    }
    const Probe *probe = (Probe *)self;
    PyObject *where = arguments[0], *values[MOST_FILTERS], *name, *value;
    if (!PyDict_CheckExact(where) || PyDict_GET_SIZE(where) != probe->given.size) return Py_NewRef(probe->otherwise);
    Py_ssize_t position = 0, number = 0;
    while (PyDict_Next(where, &position, &name, &value)) values[number++] = value;
    return probe_values(probe, values, NULL);
}

static PyObject *probe_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *words[] = {"layout", "names", "parts", "answer", "is_by_aggregate", "container", "otherwise", NULL};
    PyObject *layout, *names, *parts, *container, *otherwise;
    int answer, is_by_aggregate;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!O!O!ipOO", words, state_of(type)->layout, &layout, &PyTuple_Type, &names,
                                     &PyTuple_Type, &parts, &answer, &is_by_aggregate, &container, &otherwise))
        return NULL;
    if (answer < 0 || answer >= ANSWERS || !PyDict_CheckExact(container) || PyTuple_GET_SIZE(names) > MOST_FILTERS) {
        PyErr_SetString(PyExc_ValueError, "no such probe");
        return NULL;
    }
    Probe *probe = (Probe *)type->tp_alloc(type, 0);
    if (probe == NULL) return NULL;
    probe->vectorcall = probe_call;
    probe->layout = (Layout *)Py_NewRef(layout);
    probe->answer = answer;
    probe->is_by_aggregate = is_by_aggregate;
    probe->container = Py_NewRef(container);
    probe->otherwise = Py_NewRef(otherwise);
    if (read_columns(probe->layout, names, &probe->given) < 0 || read_columns(probe->layout, parts, &probe->parts) < 0) goto fail;
    /* From columns to positions among the filters. */
    for (Py_ssize_t number = 0; number < probe->parts.size; number++) {
        Py_ssize_t at = 0;
        while (at < probe->given.size && probe->given.columns[at] != probe->parts.columns[number]) at++;
        if (at == probe->given.size) { PyErr_SetString(PyExc_ValueError, "a part of the key is not given"); goto fail; }
        probe->parts.columns[number] = at;
    }
    return (PyObject *)probe;
fail:
    Py_DECREF(probe);
    return NULL;
}

static int probe_traverse(PyObject *self, visitproc visit, void *arg) {
    Probe *probe = (Probe *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(probe->layout);
    Py_VISIT(probe->container);
    Py_VISIT(probe->otherwise);
    return 0;
}

static void probe_dealloc(PyObject *self) {
    Probe *probe = (Probe *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    PyMem_Free(probe->given.columns);
    PyMem_Free(probe->parts.columns);
    Py_XDECREF(probe->layout);
    Py_XDECREF(probe->container);
    Py_XDECREF(probe->otherwise);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef probe_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Probe, vectorcall), READONLY, NULL}, {NULL},
};
static PyType_Slot probe_slots[] = {
    {Py_tp_new, probe_new}, {Py_tp_dealloc, probe_dealloc}, {Py_tp_traverse, probe_traverse}, {Py_tp_members, probe_members},
    {Py_tp_call, PyVectorcall_Call}, {Py_tp_doc, "From filters to a key, or to what an index has under it."}, {0, NULL},
};
static PyType_Spec probe_spec = {
    "sequent_py._native.Probe", sizeof(Probe), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL, probe_slots,
};
