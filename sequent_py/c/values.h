/* Values: which of them a column stores as they are, and what it makes of the commonest others. Part of _native.c.
 *
 * What is not decided here is left to the column's own conversion, in Python: the functions then return 0, or NULL without an error.
 */

/* What a column's type says besides its kind. */
typedef struct {
    int most;               /* characters of a text, or digits of a number; -1: any */
    int scale;              /* digits behind the point */
    int element, element_wire, element_most; /* of an array */
    unsigned element_oid;
    int is_nullable;
    /* Borrowed from Layout.details: what pads a number, (dumps, loads) of JSON, the driver's (dump, load) of a column whose binary form it makes, or of an
       enum (class, dict from a member's name to its label, dict from label to member). */
    PyObject *helper;
} Details;

/* Whether it is a str without NUL and lone surrogates, of at most so many characters. */
static int is_plain_text(PyObject *value, int most) {
    if (!PyUnicode_CheckExact(value)) return 0;
#if PY_VERSION_HEX < 0x030C0000
    if (!PyUnicode_IS_READY(value)) return 0;
#endif
    Py_ssize_t length = PyUnicode_GET_LENGTH(value);
    if (most >= 0 && length > most) return 0;
    const void *data = PyUnicode_DATA(value);
    int kind = PyUnicode_KIND(value);
    if (kind == PyUnicode_1BYTE_KIND) return memchr(data, 0, (size_t)length) == NULL;
    for (Py_ssize_t at = 0; at < length; at++) {
        Py_UCS4 character = PyUnicode_READ(kind, data, at);
        if (character == 0 || Py_UNICODE_IS_SURROGATE(character)) return 0;
    }
    return 1;
}

/* How numeric(most, scale) takes a Decimal. */
enum Fit { UNDECIDED, FITS, IS_SHORT }; /* IS_SHORT: it fits when zeros are put behind it. */

/* A number of these has no exponent, and is far from every limit of numeric. */
#define MOST_DIGITS 1000

/* One of enum Fit; -1: error. */
static int fit_of(const State *state, const Details *details, PyObject *value) {
    if ((PyObject *)Py_TYPE(value) != state->decimal_type) return UNDECIDED;
    PyObject *text = PyObject_Str(value);
    Py_ssize_t length;
    const char *at = text == NULL ? NULL : PyUnicode_AsUTF8AndSize(text, &length);
    if (at == NULL) { Py_XDECREF(text); return -1; }
    const char *end = at + length;
    int is_negative = *at == '-', is_zero = 1, fit = UNDECIDED;
    Py_ssize_t whole = 0, behind = 0;
    at += is_negative;
    for (; at < end && *at >= '0' && *at <= '9'; at++) {
        is_zero = is_zero && *at == '0';
        whole += !is_zero;
    }
    if (at < end && *at == '.')
        for (at++; at < end && *at >= '0' && *at <= '9'; at++, behind++) is_zero = is_zero && *at == '0';
    /* Else it has an exponent, or is no number; and there is no negative zero in numeric. */
    if (at == end && length < MOST_DIGITS && !(is_negative && is_zero)) {
        if (details->most < 0) fit = FITS;
        else if (details->scale >= 0 && behind <= details->scale && whole <= details->most - details->scale)
            fit = behind == details->scale ? FITS : IS_SHORT;
    }
    Py_DECREF(text);
    return fit;
}

/* A new reference to the moment in UTC, where it is none but in another zone object's words, as those that pydantic reads are. */
static PyObject *in_utc(const State *state, PyObject *value) {
    if (!PyDateTime_CheckExact(value) || PyDateTime_DATE_GET_TZINFO(value) == Py_None) return NULL;
    PyObject *offset = PyObject_CallMethodNoArgs(value, state->str_utcoffset);
    if (offset == NULL) { PyErr_Clear(); return NULL; }
    int is_utc = PyDelta_Check(offset) && PyDateTime_DELTA_GET_DAYS(offset) == 0 && PyDateTime_DELTA_GET_SECONDS(offset) == 0
                 && PyDateTime_DELTA_GET_MICROSECONDS(offset) == 0;
    Py_DECREF(offset);
    if (!is_utc) return NULL;
    return PyDateTimeAPI->DateTime_FromDateAndTime(PyDateTime_GET_YEAR(value), PyDateTime_GET_MONTH(value), PyDateTime_GET_DAY(value),
                                                   PyDateTime_DATE_GET_HOUR(value), PyDateTime_DATE_GET_MINUTE(value),
                                                   PyDateTime_DATE_GET_SECOND(value), PyDateTime_DATE_GET_MICROSECOND(value),
                                                   PyDateTime_TimeZone_UTC, PyDateTimeAPI->DateTimeType);
}

static int accepts_value(const State *state, int kind, const Details *details, PyObject *value) {
    int overflow;
    long long number;
    switch (kind) {
    case INT2: case INT4: case INT8:
        if (!PyLong_CheckExact(value)) return 0;
        number = PyLong_AsLongLongAndOverflow(value, &overflow);
        if (overflow) return 0;
        if (kind == INT4) return number >= INT32_MIN && number <= INT32_MAX;
        if (kind == INT2) return number >= INT16_MIN && number <= INT16_MAX;
        return 1;
    case BOOL: return value == Py_True || value == Py_False;
    case UUID_: return (PyObject *)Py_TYPE(value) == state->uuid_type;
    case TIMESTAMPTZ:
        return PyDateTime_CheckExact(value) && PyDateTime_DATE_GET_TZINFO(value) == PyDateTime_TimeZone_UTC;
    case DATE: return PyDate_CheckExact(value);
    case ENUM: return (PyObject *)Py_TYPE(value) == PyTuple_GET_ITEM(details->helper, 0);
    case TEXT: return is_plain_text(value, details->most);
    case FLOAT8: return PyFloat_CheckExact(value) && PyFloat_AS_DOUBLE(value) == PyFloat_AS_DOUBLE(value);
    default: return 0;
    }
}

/* ------------------------------------------------------------------ values that can change in place */

static int is_mutable(int kind) { return kind == JSON || kind == JSONB || kind == ARRAY; }

/* A new reference to a value that was converted: its dicts and lists are copied, all else is shared. */
static PyObject *copied(PyObject *value) {
    PyObject *copy = NULL, *name, *item;
    Py_ssize_t position = 0;
    if (!PyDict_CheckExact(value) && !PyList_CheckExact(value)) return Py_NewRef(value);
    if (Py_EnterRecursiveCall(" while a row is copied")) return NULL;
    if (PyDict_CheckExact(value)) {
        copy = PyDict_New();
        while (copy != NULL && PyDict_Next(value, &position, &name, &item)) {
            PyObject *made = copied(item);
            if (made == NULL || PyDict_SetItem(copy, name, made) < 0) Py_CLEAR(copy);
            Py_XDECREF(made);
        }
    } else {
        Py_ssize_t size = PyList_GET_SIZE(value);
        copy = PyList_New(size);
        for (; copy != NULL && position < size; position++) {
            PyObject *made = copied(PyList_GET_ITEM(value, position));
            if (made == NULL) Py_CLEAR(copy);
            else PyList_SET_ITEM(copy, position, made);
        }
    }
    Py_LeaveRecursiveCall();
    return copy;
}

/* Whether a copy is still what it was made of, and nobody but who asks has it, or a part of it. */
static int is_still(PyObject *copy, PyObject *value) {
    PyObject *name, *item, *other_name, *other;
    Py_ssize_t position = 0, other_position = 0;
    if (copy == value) return 1;
    if (Py_REFCNT(copy) != 1) return 0;
    if (PyDict_CheckExact(copy) && PyDict_CheckExact(value)) {
        if (PyDict_GET_SIZE(copy) != PyDict_GET_SIZE(value)) return 0;
        while (PyDict_Next(copy, &position, &name, &item))
            if (!PyDict_Next(value, &other_position, &other_name, &other) || name != other_name || !is_still(item, other)) return 0;
        return 1;
    }
    if (!PyList_CheckExact(copy) || !PyList_CheckExact(value) || PyList_GET_SIZE(copy) != PyList_GET_SIZE(value)) return 0;
    for (; position < PyList_GET_SIZE(copy); position++)
        if (!is_still(PyList_GET_ITEM(copy, position), PyList_GET_ITEM(value, position))) return 0;
    return 1;
}

#define MOST_NAMES 64
/* Of values in values: each takes some of the stack, of which threads may have little. */
#define MOST_DEPTH 50

typedef struct { const char *text; Py_ssize_t length; PyObject *name; } Name;

/* The order of names in jsonb. */
static int compare_names(const void *one, const void *other) {
    const Name *a = one, *b = other;
    if (a->length != b->length) return a->length < b->length ? -1 : 1;
    return memcmp(a->text, b->text, (size_t)a->length);
}

static PyObject *json_within(PyObject *value, int is_jsonb, int depth);

static PyObject *json_object(PyObject *value, int is_jsonb, int depth) {
    Name names[MOST_NAMES];
    PyObject *name, *item, *object;
    Py_ssize_t position = 0, size = 0;
    if (PyDict_GET_SIZE(value) > MOST_NAMES) return NULL;
    while (PyDict_Next(value, &position, &name, &item)) {
        if (!is_plain_text(name, -1) || !PyUnicode_IS_COMPACT_ASCII(name)) return NULL;
        names[size++] = (Name){PyUnicode_DATA(name), PyUnicode_GET_LENGTH(name), name};
    }
    if (is_jsonb) qsort(names, (size_t)size, sizeof(Name), compare_names);
    object = PyDict_New();
    for (Py_ssize_t number = 0; object != NULL && number < size; number++) {
        PyObject *made = json_within(PyDict_GetItemWithError(value, names[number].name), is_jsonb, depth);
        if (made == NULL || PyDict_SetItem(object, names[number].name, made) < 0) Py_CLEAR(object);
        Py_XDECREF(made);
    }
    return object;
}

/* json_of, inside of so many others. */
static PyObject *json_within(PyObject *value, int is_jsonb, int depth) {
    PyObject *made = NULL;
    if (value == NULL || depth > MOST_DEPTH) return NULL;
    if (value == Py_None || PyBool_Check(value) || PyLong_CheckExact(value)) return Py_NewRef(value);
    if (PyUnicode_CheckExact(value)) return is_plain_text(value, -1) ? Py_NewRef(value) : NULL;
    if (PyFloat_CheckExact(value)) {
        double number = PyFloat_AS_DOUBLE(value);
        /* Larger ones are whole numbers in jsonb, and negative zero is zero. */
        if (!(number < 1e16 && number > -1e16) || (is_jsonb && number == 0)) return NULL;
        return Py_NewRef(value);
    }
    if (PyDict_CheckExact(value)) made = json_object(value, is_jsonb, depth + 1);
    else if (PyList_CheckExact(value)) {
        Py_ssize_t size = PyList_GET_SIZE(value);
        made = PyList_New(size);
        for (Py_ssize_t number = 0; made != NULL && number < size; number++) {
            PyObject *item = json_within(PyList_GET_ITEM(value, number), is_jsonb, depth + 1);
            if (item == NULL) Py_CLEAR(made);
            else PyList_SET_ITEM(made, number, item);
        }
    }
    return made;
}

/* A new reference to what a json or jsonb column gives back for a value. */
static PyObject *json_of(PyObject *value, int is_jsonb) { return json_within(value, is_jsonb, 0); }

/* A new reference to what an array column gives back for a list of elements that are stored as they are. */
static PyObject *array_of(const State *state, const Details *details, PyObject *value) {
    if (!PyList_CheckExact(value)) return NULL;
    const Details element = {.most = details->element_most};
    for (Py_ssize_t number = 0; number < PyList_GET_SIZE(value); number++) {
        PyObject *item = PyList_GET_ITEM(value, number);
        if (item != Py_None && !accepts_value(state, details->element, &element, item)) return NULL;
    }
    return PyList_GetSlice(value, 0, PyList_GET_SIZE(value));
}
