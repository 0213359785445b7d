/* Layout: where the values of a record's rows are, and how they are tested, converted and copied. Part of _native.c. */

typedef struct {
    PyObject_HEAD
    State *state;
    PyTypeObject *writable, *locked;
    Py_ssize_t size;
    Py_ssize_t *offsets;
    int *kinds, *parts, *wires;
    Details *columns;
    int has_mutable;
    PyObject *names, *coerces, *details, *numbers; /* tuple of str, tuple of callables, tuple of tuples, dict from str to int */
} Layout;

static inline PyObject **slot_of(const Layout *layout, PyObject *row, Py_ssize_t column) {
    return (PyObject **)((char *)row + layout->offsets[column]);
}

static int has_layout(const Layout *layout, PyObject *row) {
    return Py_IS_TYPE(row, layout->locked) || Py_IS_TYPE(row, layout->writable);
}

static int check_row(const Layout *layout, PyObject *row) {
    if (has_layout(layout, row)) return 0;
    PyErr_Format(PyExc_TypeError, "a row of %s is needed, not %.80R", layout->locked->tp_name, row);
    return -1;
}

/* Borrowed; sets AttributeError where the block has deleted the value. */
static PyObject *value_of(const Layout *layout, PyObject *row, Py_ssize_t column) {
    PyObject *value = *slot_of(layout, row, column);
    if (value == NULL) PyErr_SetObject(PyExc_AttributeError, PyTuple_GET_ITEM(layout->names, column));
    return value;
}

static int accepts(const Layout *layout, Py_ssize_t column, PyObject *value) {
    const Details *details = &layout->columns[column];
    if (layout->kinds[column] != NUMERIC) return accepts_value(layout->state, layout->kinds[column], details, value);
    int fit = fit_of(layout->state, details, value);
    if (fit < 0) PyErr_Clear();
    return fit == FITS;
}

/* A new reference to what the column stores for a value that it does not take as it is; NULL without an error where its own conversion is to be asked. */
static PyObject *soon_converted(const Layout *layout, Py_ssize_t column, PyObject *value) {
    const Details *details = &layout->columns[column];
    PyObject *found = NULL;
    switch (layout->kinds[column]) {
    case TIMESTAMPTZ: return in_utc(layout->state, value);
    case TEXT:
        /* Members of an enum of texts, mostly. */
        found = PyUnicode_Check(value) ? PyUnicode_FromObject(value) : NULL;
        if (found != NULL && !is_plain_text(found, details->most)) Py_CLEAR(found);
        break;
    case JSON: case JSONB: found = json_of(value, layout->kinds[column] == JSONB); break;
    case ARRAY: found = array_of(layout->state, details, value); break;
    case NUMERIC:
        switch (fit_of(layout->state, details, value)) {
        case FITS: return Py_NewRef(value);
        case IS_SHORT: found = PyObject_CallOneArg(details->helper, value);
        }
    }
    /* Whatever it was, the conversion meets it again and says it in its own words. */
    if (found == NULL && PyErr_Occurred()) PyErr_Clear();
    return found;
}

/* A new reference to what the column stores for a value. */
static PyObject *converted(const Layout *layout, Py_ssize_t column, PyObject *value) {
    if (layout->kinds[column] != NUMERIC && accepts(layout, column, value)) return Py_NewRef(value);
    if (value == Py_None && layout->columns[column].is_nullable) return Py_NewRef(value);
    PyObject *found = value == Py_None ? NULL : soon_converted(layout, column, value);
    return found != NULL ? found : PyObject_CallOneArg(PyTuple_GET_ITEM(layout->coerces, column), value);
}

/* A new reference to the number of a UUID. */
static PyObject *number_of_uuid(const State *state, PyObject *value) {
    PyObject *number = (PyObject *)Py_TYPE(value) == state->uuid_type ? *(PyObject **)((char *)value + state->uuid_int) : NULL;
    return number != NULL ? Py_NewRef(number) : PyObject_GetAttr(value, state->str_int);
}

/* A new reference to what stands for a value in keys. */
static PyObject *part_of(const Layout *layout, Py_ssize_t column, PyObject *value) {
    if (layout->parts[column] == UUID_INT && value != Py_None)
        return number_of_uuid(layout->state, value);
    if (layout->parts[column] == NAME && value != Py_None) return PyObject_GetAttr(value, layout->state->str_name);
    return Py_NewRef(value);
}

static PyObject *clone_row(const Layout *layout, PyObject *row) {
    if (check_row(layout, row) < 0) return NULL;
    PyObject *clone = layout->writable->tp_alloc(layout->writable, 0);
    if (clone == NULL) return NULL;
    for (Py_ssize_t column = 0; column < layout->size; column++) {
        PyObject *value = value_of(layout, row, column);
        if (value == NULL) { Py_DECREF(clone); return NULL; }
        value = is_mutable(layout->kinds[column]) ? copied(value) : Py_NewRef(value);
        if (value == NULL) { Py_DECREF(clone); return NULL; }
        *slot_of(layout, clone, column) = value;
    }
    return clone;
}

/* What row.__class__ = locked does; that the classes allow it was found out when the layout was made. */
static void lock_row(const Layout *layout, PyObject *row) {
    if (!Py_IS_TYPE(row, layout->writable)) return;
    Py_INCREF(layout->locked);
    Py_SET_TYPE(row, layout->locked);
    Py_DECREF(layout->writable);
}

/* A row for who could change JSON or arrays in place: itself, where there are none, else a read-only copy; takes the reference. */
static PyObject *detached(const Layout *layout, PyObject *row) {
    if (row == NULL || !layout->has_mutable) return row;
    PyObject *clone = clone_row(layout, row);
    Py_DECREF(row);
    if (clone != NULL) lock_row(layout, clone);
    return clone;
}

/* Whether a writable row can become a locked one. */
static int can_lock(const Layout *layout) {
    PyObject *row = layout->writable->tp_alloc(layout->writable, 0);
    int outcome = row == NULL ? -1 : PyObject_SetAttr(row, layout->state->str_class, (PyObject *)layout->locked);
    Py_XDECREF(row);
    return outcome;
}

/* convert(row): every value of a writable row, in the order of the columns. */
static PyObject *layout_convert(PyObject *self, PyObject *row) {
    const Layout *layout = (Layout *)self;
    if (check_row(layout, row) < 0) return NULL;
    for (Py_ssize_t column = 0; column < layout->size; column++) {
        PyObject *value = value_of(layout, row, column);
        if (value == NULL) return NULL;
        Py_INCREF(value); /* its conversion may run Python */
        PyObject *found = converted(layout, column, value);
        Py_DECREF(value);
        if (found == NULL) return NULL;
        Py_XSETREF(*slot_of(layout, row, column), found);
    }
    Py_RETURN_NONE;
}

static PyObject *layout_clone(PyObject *self, PyObject *row) { return clone_row((Layout *)self, row); }

/* Numbers of the columns named, in a new array; NULL with KeyError. */
static Py_ssize_t *columns_of(const Layout *layout, PyObject *names, Py_ssize_t *count) {
    *count = PyTuple_GET_SIZE(names);
    Py_ssize_t *columns = PyMem_New(Py_ssize_t, *count ? *count : 1);
    if (columns == NULL) { PyErr_NoMemory(); return NULL; }
    for (Py_ssize_t number = 0; number < *count; number++) {
        PyObject *found = PyDict_GetItemWithError(layout->numbers, PyTuple_GET_ITEM(names, number));
        if (found == NULL) {
            if (!PyErr_Occurred()) PyErr_SetObject(PyExc_KeyError, PyTuple_GET_ITEM(names, number));
            PyMem_Free(columns);
            return NULL;
        }
        columns[number] = PyLong_AsSsize_t(found);
    }
    return columns;
}

static int read_numbers(PyObject *tuple, int *into, Py_ssize_t size, int most) {
    if (PyTuple_GET_SIZE(tuple) != size) { PyErr_SetString(PyExc_ValueError, "one number per column is needed"); return -1; }
    for (Py_ssize_t column = 0; column < size; column++) {
        long number = PyLong_AsLong(PyTuple_GET_ITEM(tuple, column));
        if (number < 0 || number >= most) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "unknown kind");
            return -1;
        }
        into[column] = (int)number;
    }
    return 0;
}

/* The offset of a slot of a class; -1 and TypeError where the name is none of its slots. */
static Py_ssize_t offset_of(PyTypeObject *cls, PyObject *name) {
    PyObject *descriptor = PyObject_GetAttr((PyObject *)cls, name);
    if (descriptor == NULL) return -1;
    PyMemberDef *member = Py_IS_TYPE(descriptor, &PyMemberDescr_Type) ? ((PyMemberDescrObject *)descriptor)->d_member : NULL;
    Py_ssize_t offset = member != NULL && member->type == T_OBJECT_EX ? member->offset : -1;
    Py_DECREF(descriptor);
    if (offset < 0) PyErr_Format(PyExc_TypeError, "%U is no slot of %s", name, cls->tp_name);
    return offset;
}

static int read_details(Layout *layout) {
    if (PyTuple_GET_SIZE(layout->details) != layout->size) { PyErr_SetString(PyExc_ValueError, "details of every column are needed"); return -1; }
    for (Py_ssize_t column = 0; column < layout->size; column++) {
        Details *into = &layout->columns[column];
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(layout->details, column), "iiiiiIpO", &into->most, &into->scale, &into->element, &into->element_wire,
                              &into->element_most, &into->element_oid, &into->is_nullable, &into->helper))
            return -1;
        layout->has_mutable |= is_mutable(layout->kinds[column]);
    }
    return 0;
}

static int find_slots(Layout *layout) {
    for (Py_ssize_t column = 0; column < layout->size; column++) {
        PyObject *name = PyTuple_GET_ITEM(layout->names, column);
        layout->offsets[column] = offset_of(layout->writable, name);
        if (layout->offsets[column] < 0) return -1;
        PyObject *number = PyLong_FromSsize_t(column);
        if (number == NULL || PyDict_SetItem(layout->numbers, name, number) < 0) { Py_XDECREF(number); return -1; }
        Py_DECREF(number);
    }
    return 0;
}

static PyObject *layout_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *words[] = {"writable", "locked", "names", "kinds", "parts", "wires", "coerces", "details", NULL};
    PyTypeObject *writable, *locked;
    PyObject *names, *kinds, *parts, *wires, *coerces, *details;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!O!O!O!O!O!O!O!", words, &PyType_Type, &writable, &PyType_Type, &locked,
                                     &PyTuple_Type, &names, &PyTuple_Type, &kinds, &PyTuple_Type, &parts, &PyTuple_Type, &wires,
                                     &PyTuple_Type, &coerces, &PyTuple_Type, &details))
        return NULL;
    if (!PyType_IsSubtype(locked, writable) || locked->tp_basicsize != writable->tp_basicsize) {
        PyErr_SetString(PyExc_TypeError, "the locked class must be a subclass with the same slots");
        return NULL;
    }
    Layout *layout = (Layout *)type->tp_alloc(type, 0);
    if (layout == NULL) return NULL;
    layout->state = state_of(type);
    layout->writable = (PyTypeObject *)Py_NewRef(writable);
    layout->locked = (PyTypeObject *)Py_NewRef(locked);
    layout->names = Py_NewRef(names);
    layout->coerces = Py_NewRef(coerces);
    layout->details = Py_NewRef(details);
    layout->numbers = PyDict_New();
    Py_ssize_t size = layout->size = PyTuple_GET_SIZE(names);
    layout->offsets = PyMem_New(Py_ssize_t, size + 1);
    layout->kinds = PyMem_New(int, size + 1);
    layout->parts = PyMem_New(int, size + 1);
    layout->wires = PyMem_New(int, size + 1);
    layout->columns = PyMem_Calloc((size_t)size + 1, sizeof(Details));
    if (layout->numbers == NULL || layout->offsets == NULL || layout->kinds == NULL || layout->parts == NULL || layout->wires == NULL
        || layout->columns == NULL) {
        PyErr_NoMemory();
        goto fail;
    }
    if (PyTuple_GET_SIZE(coerces) != size) { PyErr_SetString(PyExc_ValueError, "one conversion per column is needed"); goto fail; }
    if (read_numbers(kinds, layout->kinds, size, KINDS) < 0 || read_numbers(parts, layout->parts, size, NO_KEY + 1) < 0
        || read_numbers(wires, layout->wires, size, KINDS) < 0 || read_details(layout) < 0 || find_slots(layout) < 0 || can_lock(layout) < 0)
        goto fail;
    return (PyObject *)layout;
fail:
    Py_DECREF(layout);
    return NULL;
}

static int layout_traverse(PyObject *self, visitproc visit, void *arg) {
    Layout *layout = (Layout *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(layout->writable);
    Py_VISIT(layout->locked);
    Py_VISIT(layout->names);
    Py_VISIT(layout->coerces);
    Py_VISIT(layout->details);
    Py_VISIT(layout->numbers);
    return 0;
}

static int layout_clear(PyObject *self) {
    Layout *layout = (Layout *)self;
    Py_CLEAR(layout->coerces);
    return 0;
}

static void layout_dealloc(PyObject *self) {
    Layout *layout = (Layout *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(layout->writable);
    Py_XDECREF(layout->locked);
    Py_XDECREF(layout->names);
    Py_XDECREF(layout->coerces);
    Py_XDECREF(layout->details);
    Py_XDECREF(layout->numbers);
    PyMem_Free(layout->offsets);
    PyMem_Free(layout->kinds);
    PyMem_Free(layout->parts);
    PyMem_Free(layout->wires);
    PyMem_Free(layout->columns);
    type->tp_free(self);
    Py_DECREF(type);
}
