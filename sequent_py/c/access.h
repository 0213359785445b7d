/* Access: the usual ways into a table in memory. Part of _native.c. */

/* What names of filters or values lead to. A call in a handler names them by one and the same tuple each time, by which it is found here at once. */
typedef struct { PyObject *names, *found; } Place;

#define PLACES 16

typedef struct {
    PyObject_HEAD
    State *state;
    Layout *layout;
    PyObject *table; /* the MemoryTable: asked for whatever is not usual */
    Py_ssize_t limit; /* as the table's */
    PyObject *finish; /* as the table's */
    PyObject *rows, *probes, *creators, *convert, *bucket, *python_first, *python_create;
    PyObject *dirty, *gone, *complete; /* of the relation behind the rows; NULL where there is none */
    Place probing[PLACES], creating[PLACES];
} Access;

/* Filters and what an update notes of its event are tuples of names and of values. */
typedef struct {
    PyObject_HEAD
    Access *access;
    PyObject *names, *values, *touched_names, *touched_values, *key, *before, *after;
    int may_create;
    PyObject *creation; /* the block in Python that makes a new row */
} Update;

static void forget_places(Place *places) {
    for (int number = 0; number < PLACES; number++) {
        Py_CLEAR(places[number].names);
        Py_CLEAR(places[number].found);
    }
}

/* Borrowed: what the dict has for these names; NULL also where it has nothing. */
static PyObject *found_for(Place *places, PyObject *dict, PyObject *names) {
    Place *place = &places[((size_t)names >> 4) % PLACES];
    if (place->names == names) return place->found;
    PyObject *found = PyDict_GetItemWithError(dict, names);
    if (found != NULL) {
        Py_XSETREF(place->names, Py_NewRef(names));
        Py_XSETREF(place->found, Py_NewRef(found));
    }
    return found;
}

/* Names and values as a dict, for Python. */
static PyObject *as_dict(PyObject *names, PyObject *const *values) {
    PyObject *dict = PyDict_New();
    for (Py_ssize_t number = 0; dict != NULL && number < PyTuple_GET_SIZE(names); number++)
        if (PyDict_SetItem(dict, PyTuple_GET_ITEM(names, number), values[number]) < 0) Py_CLEAR(dict);
    return dict;
}

/* A new reference to the key of the first row that matches, or None. */
static PyObject *first_key(Access *access, PyObject *names, PyObject *const *values) {
    PyObject *probe = found_for(access->probing, access->probes, names);
    if (probe == NULL && PyErr_Occurred()) return NULL;
    if (probe != NULL && Py_IS_TYPE(probe, access->state->probe)) {
        PyObject *found = probe_values((Probe *)probe, values, access->complete);
        if (found == NULL) return NULL;
        if ((PyObject *)Py_TYPE(found) == access->bucket) {
            PyObject *key = PyObject_CallMethodNoArgs(found, access->state->str_first);
            Py_DECREF(found);
            return key;
        }
        if (found != access->convert) return found;
        Py_DECREF(found);
    }
    PyObject *where = as_dict(names, values);
    PyObject *key = where == NULL ? NULL : PyObject_CallOneArg(access->python_first, where);
    Py_XDECREF(where);
    return key;
}

/* Names and values of a mapping, as tuples. */
static int take_apart(PyObject *mapping, PyObject **names, PyObject **values) {
    PyObject *listed = NULL;
    *values = NULL;
    *names = PySequence_Tuple(mapping);
    if (*names != NULL) listed = PyMapping_Values(mapping);
    if (listed != NULL) *values = PyList_AsTuple(listed);
    Py_XDECREF(listed);
    if (*values != NULL && PyTuple_GET_SIZE(*names) == PyTuple_GET_SIZE(*values)) return 0;
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a mapping has as many keys as values");
    Py_CLEAR(*names);
    Py_CLEAR(*values);
    return -1;
}

static PyObject *access_first(PyObject *self, PyObject *where) {
    PyObject *names, *values;
    if (take_apart(where, &names, &values) < 0) return NULL;
    PyObject *key = first_key((Access *)self, names, &PyTuple_GET_ITEM(values, 0));
    Py_DECREF(names);
    Py_DECREF(values);
    return key;
}

static PyObject *create_row(Access *access, PyObject *names, PyObject *const *values) {
    if (PyDict_GET_SIZE(access->rows) < access->limit) {
        PyObject *creator = found_for(access->creating, access->creators, names);
        if (creator == NULL && PyErr_Occurred()) return NULL;
        if (creator != NULL && Py_IS_TYPE(creator, access->state->creator)) {
            /* It may be replaced while it runs a conversion. */
            Py_INCREF(creator);
            PyObject *row = row_of_values((Creator *)creator, values);
            Py_DECREF(creator);
            return detached(access->layout, row);
        }
    }
    PyObject *dict = as_dict(names, values);
    PyObject *row = dict == NULL ? NULL : PyObject_CallOneArg(access->python_create, dict);
    Py_XDECREF(dict);
    return row;
}

static PyObject *access_create(PyObject *self, PyObject *mapping) {
    PyObject *names, *values;
    if (take_apart(mapping, &names, &values) < 0) return NULL;
    PyObject *row = create_row((Access *)self, names, &PyTuple_GET_ITEM(values, 0));
    Py_DECREF(names);
    Py_DECREF(values);
    return row;
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
    forget_places(access->creating);
    Py_RETURN_NONE;
}

static PyObject *access_renew(PyObject *self, PyObject *arguments) {
    Access *access = (Access *)self;
    Py_ssize_t limit;
    PyObject *finish;
    if (!PyArg_ParseTuple(arguments, "nO", &limit, &finish)) return NULL;
    access->limit = limit;
    Py_XSETREF(access->finish, Py_NewRef(finish));
    forget_places(access->creating);
    Py_RETURN_NONE;
}

/* The block of an update; takes the references to names and values, also where it fails. */
static PyObject *new_update(PyObject *access, PyObject *names, PyObject *values, PyObject *touched_names, PyObject *touched_values, int may_create) {
    PyTypeObject *type = ((Access *)access)->state->update;
    Update *update = (Update *)type->tp_alloc(type, 0);
    if (update == NULL) {
        Py_DECREF(names);
        Py_DECREF(values);
        Py_DECREF(touched_names);
        Py_DECREF(touched_values);
        return NULL;
    }
    update->access = (Access *)Py_NewRef(access);
    update->names = names;
    update->values = values;
    update->touched_names = touched_names;
    update->touched_values = touched_values;
    update->may_create = may_create;
    return (PyObject *)update;
}

static PyObject *access_update(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    PyObject *names, *values, *touched_names, *touched_values;
    if (count != 2) { PyErr_SetString(PyExc_TypeError, "filters and what an update notes are needed"); return NULL; }
    if (take_apart(arguments[0], &names, &values) < 0) return NULL;
    if (take_apart(arguments[1], &touched_names, &touched_values) < 0) {
        Py_DECREF(names);
        Py_DECREF(values);
        return NULL;
    }
    return new_update(self, names, values, touched_names, touched_values, 0);
}

static PyObject *access_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *words[] = {"layout", "table", "limit", "finish", "rows", "probes", "creators", "convert", "bucket", "first", "create", NULL};
    PyObject *layout, *table, *finish, *rows, *probes, *creators, *convert, *bucket, *first, *create;
    Py_ssize_t limit;
    State *state = state_of(type);
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!OnOO!O!O!OOOO", words, state->layout, &layout, &table, &limit, &finish, &PyDict_Type, &rows,
                                     &PyDict_Type, &probes, &PyDict_Type, &creators, &convert, &bucket, &first, &create))
        return NULL;
    Access *access = (Access *)type->tp_alloc(type, 0);
    if (access == NULL) return NULL;
    access->state = state;
    access->layout = (Layout *)Py_NewRef(layout);
    access->table = Py_NewRef(table);
    access->limit = limit;
    access->finish = Py_NewRef(finish);
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
    Py_VISIT(access->finish);
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
    for (int number = 0; number < PLACES; number++) {
        Py_VISIT(access->probing[number].names);
        Py_VISIT(access->probing[number].found);
        Py_VISIT(access->creating[number].names);
        Py_VISIT(access->creating[number].found);
    }
    return 0;
}

static void access_dealloc(PyObject *self) {
    Access *access = (Access *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(access->layout);
    Py_XDECREF(access->table);
    Py_XDECREF(access->finish);
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
    forget_places(access->probing);
    forget_places(access->creating);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef access_methods[] = {
    {"first", access_first, METH_O, "Return the lowest key among matching rows; None where no row matches."},
    {"create", access_create, METH_O, "Make, store and return a row."},
    {"update", (PyCFunction)(void (*)(void))access_update, METH_FASTCALL, "Return the block of an update."},
    {"back", access_back, METH_VARARGS, "Take dirty, gone and complete of the relation that is behind the rows from now on; nothing: there is none."},
    {"renew", access_renew, METH_VARARGS, "Take the table's limit and finish, and look creators up anew: they are others from now on."},
    {NULL},
};
static PyType_Slot access_slots[] = {
    {Py_tp_new, access_new}, {Py_tp_dealloc, access_dealloc}, {Py_tp_traverse, access_traverse}, {Py_tp_methods, access_methods},
    {Py_tp_doc, "The usual ways into a table in memory."}, {0, NULL},
};
static PyType_Spec access_spec = {"sequent_py._native.Access", sizeof(Access), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, access_slots};
