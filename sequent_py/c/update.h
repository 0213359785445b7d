/* Update: the block of an update, or of a create-or-update. Part of _native.c. */

static int touch_row(const Update *update, PyObject *row) {
    const Layout *layout = update->access->layout;
    for (Py_ssize_t number = 0; number < PyTuple_GET_SIZE(update->touched_names); number++) {
        PyObject *name = PyTuple_GET_ITEM(update->touched_names, number);
        PyObject *column = PyDict_GetItemWithError(layout->numbers, name);
        if (column == NULL) {
            /* What there is to say against it. */
            PyObject *operations = PyErr_Occurred() ? NULL : PyObject_GetAttrString(update->access->table, "operations");
            PyObject *found = operations == NULL ? NULL : PyObject_CallMethod(operations, "column", "O", name);
            Py_XDECREF(operations);
            Py_XDECREF(found);
            if (found != NULL) PyErr_SetObject(PyExc_KeyError, name);
            return -1;
        }
        set_column(layout, row, PyLong_AsSsize_t(column), Py_NewRef(PyTuple_GET_ITEM(update->touched_values, number)));
    }
    return 0;
}

static PyObject *refuse_missing(const Update *update) {
    PyObject *where = as_dict(update->names, &PyTuple_GET_ITEM(update->values, 0));
    PyObject *answer = where == NULL ? NULL : PyObject_CallMethod(update->access->table, "refuse_missing", "O", where);
    Py_XDECREF(where);
    return answer;
}

/* The new row of a create-or-update, as Python makes it. */
static PyObject *enter_creation(Update *update) {
    PyObject *where = as_dict(update->names, &PyTuple_GET_ITEM(update->values, 0));
    PyObject *touched = where == NULL ? NULL : as_dict(update->touched_names, &PyTuple_GET_ITEM(update->touched_values, 0));
    PyObject *block = touched == NULL ? NULL : PyObject_CallMethod(update->access->table, "create_or_update", "OO", where, touched);
    Py_XDECREF(where);
    Py_XDECREF(touched);
    if (block == NULL) return NULL;
    Py_XSETREF(update->creation, block);
    return PyObject_CallMethod(block, "__enter__", NULL);
}

static PyObject *update_enter(PyObject *self, PyObject *ignored) {
    Update *update = (Update *)self;
    Access *access = update->access;
    PyObject *key = first_key(access, update->names, &PyTuple_GET_ITEM(update->values, 0));
    if (key == NULL) return NULL;
    Py_XSETREF(update->key, key);
    if (key == Py_None) return update->may_create ? enter_creation(update) : refuse_missing(update);
    PyObject *before = PyDict_GetItemWithError(access->rows, key);
    if (before == NULL) {
        if (!PyErr_Occurred()) PyErr_SetObject(PyExc_KeyError, key);
        return NULL;
    }
    Py_XSETREF(update->before, Py_NewRef(before));
    PyObject *after = clone_row(access->layout, before);
    if (after == NULL) return NULL;
    Py_XSETREF(update->after, after);
    return touch_row(update, after) < 0 ? NULL : Py_NewRef(after);
}

/* Store what the block has made of its copy, which is still writable. */
static int store_update(const Update *update) {
    const Access *access = update->access;
    /* It may be replaced while it runs a conversion. */
    PyObject *finisher = Py_NewRef(access->finish);
    int has_moved;
    if (Py_IS_TYPE(finisher, access->state->finisher))
        has_moved = finish_row((Finisher *)finisher, update->after, update->before);
    else {
        PyObject *answer = PyObject_CallFunctionObjArgs(finisher, update->after, update->before, NULL);
        has_moved = answer == NULL ? -1 : PyObject_IsTrue(answer);
        Py_XDECREF(answer);
    }
    Py_DECREF(finisher);
    if (has_moved < 0) return -1;
    if (!has_moved) {
        /* The usual end: no key changed, nobody else wrote the row. */
        PyObject *current = PyDict_GetItemWithError(access->rows, update->key);
        if (current == update->before) {
            /* What the handler holds could be changed in place. */
            PyObject *stored = detached(access->layout, Py_NewRef(update->after));
            int outcome = stored == NULL ? -1 : PyDict_SetItem(access->rows, update->key, stored);
            Py_XDECREF(stored);
            if (outcome < 0) return -1;
            return access->dirty == NULL ? 0 : note_changed(access->dirty, access->gone, update->key);
        }
        if (current == NULL && PyErr_Occurred()) return -1;
    }
    PyObject *outcome = PyObject_CallMethodObjArgs(access->table, access->state->str_store, update->key, update->before, update->after,
                                                   has_moved ? Py_True : Py_False, NULL);
    Py_XDECREF(outcome);
    return outcome == NULL ? -1 : 0;
}

static PyObject *update_exit(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    Update *update = (Update *)self;
    if (count == 3 && update->creation != NULL)
        return PyObject_CallMethod(update->creation, "__exit__", "OOO", arguments[0], arguments[1], arguments[2]);
    if (count != 3 || update->after == NULL) { PyErr_SetString(PyExc_TypeError, "the block was not entered"); return NULL; }
    int outcome = arguments[0] == Py_None ? store_update(update) : 0;
    /* Read-only from now on, whatever happened. */
    lock_row(update->access->layout, update->after);
    if (outcome < 0) return NULL;
    Py_RETURN_NONE;
}

static int update_traverse(PyObject *self, visitproc visit, void *arg) {
    Update *update = (Update *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(update->access);
    Py_VISIT(update->names);
    Py_VISIT(update->values);
    Py_VISIT(update->touched_names);
    Py_VISIT(update->touched_values);
    Py_VISIT(update->key);
    Py_VISIT(update->before);
    Py_VISIT(update->after);
    Py_VISIT(update->creation);
    return 0;
}

static void update_dealloc(PyObject *self) {
    Update *update = (Update *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(update->access);
    Py_XDECREF(update->names);
    Py_XDECREF(update->values);
    Py_XDECREF(update->touched_names);
    Py_XDECREF(update->touched_values);
    Py_XDECREF(update->key);
    Py_XDECREF(update->before);
    Py_XDECREF(update->after);
    Py_XDECREF(update->creation);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef update_methods[] = {
    {"__enter__", update_enter, METH_NOARGS, "Return a writable copy of the first row that matches."},
    {"__exit__", (PyCFunction)(void (*)(void))update_exit, METH_FASTCALL, "Store it, unless the block raised."},
    {NULL},
};
static PyType_Slot update_slots[] = {
    {Py_tp_dealloc, update_dealloc}, {Py_tp_traverse, update_traverse}, {Py_tp_methods, update_methods},
    {Py_tp_doc, "The block of an update."}, {0, NULL},
};
static PyType_Spec update_spec = {
    "sequent_py._native.Update", sizeof(Update), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, update_slots,
};
