/* Numbers: numeric in binary, groups of four decimal digits. Part of _native.c.
 *
 * Format: number of groups, weight of the first (in groups), sign, digits behind the point; all of 16 bits, as the groups are.
 */

#define NEGATIVE 0x4000
#define NOT_A_NUMBER 0xC000
#define POSITIVE_INFINITY 0xD000
#define NEGATIVE_INFINITY 0xF000

static int put_groups(Buffer *buffer, const char *digits, long count, long point, int sign, long scale) {
    while (count > 0 && *digits == '0') { digits++; count--; point--; }
    while (count > 0 && digits[count - 1] == '0') count--;
    /* Groups are counted from the point, in both directions. */
    long weight = count == 0 ? 0 : point > 0 ? (point + 3) / 4 - 1 : -(-point / 4) - 1;
    long before = (weight + 1) * 4 - point, groups = count == 0 ? 0 : (before + count + 3) / 4;
    if (groups > UINT16_MAX || weight > INT16_MAX || weight < INT16_MIN || scale > 0x3FFF) {
        PyErr_SetString(PyExc_OverflowError, "a number is longer than a column takes");
        return -1;
    }
    char *at = reserve(buffer, 12 + 2 * groups);
    if (at == NULL) return -1;
    at = put(at, (unsigned long long)(8 + 2 * groups), 4);
    at = put(at, (unsigned long long)groups, 2);
    at = put(at, (unsigned long long)weight, 2);
    at = put(at, (unsigned long long)(count == 0 ? 0 : sign), 2);
    at = put(at, (unsigned long long)scale, 2);
    for (long group = 0; group < groups; group++) {
        int number = 0;
        for (long place = group * 4 - before; place < group * 4 - before + 4; place++)
            number = number * 10 + (place >= 0 && place < count ? digits[place] - '0' : 0);
        at = put(at, (unsigned long long)number, 2);
    }
    return 0;
}

/* From the text of a Decimal. -1: error, 0: done; else what the sign is yet to be: it is no number, or infinite. */
static int put_decimal_text(Buffer *buffer, const char *text, Py_ssize_t length) {
    const char *end = text + length;
    int sign = 0;
    if (text < end && *text == '-') { sign = NEGATIVE; text++; }
    if (text < end && (*text == 'N' || *text == 's')) return put_groups(buffer, text, 0, 0, 0, 0) < 0 ? -1 : NOT_A_NUMBER;
    if (text < end && *text == 'I') return put_groups(buffer, text, 0, 0, 0, 0) < 0 ? -1 : sign ? NEGATIVE_INFINITY : POSITIVE_INFINITY;
    char few[128], *digits = length <= (Py_ssize_t)sizeof few ? few : PyMem_Malloc((size_t)length);
    if (digits == NULL) { PyErr_NoMemory(); return -1; }
    long count = 0, point = -1, exponent = 0;
    for (; text < end && *text != 'E'; text++) {
        if (*text == '.') point = count;
        else digits[count++] = *text;
    }
    if (point < 0) point = count;
    if (text < end) exponent = strtol(text + 1, NULL, 10);
    long scale = count - point - exponent;
    int outcome = put_groups(buffer, digits, count, point + exponent, sign, scale > 0 ? scale : 0);
    if (digits != few) PyMem_Free(digits);
    return outcome;
}

static int put_numeric(const State *state, Buffer *buffer, PyObject *value) {
    if ((PyObject *)Py_TYPE(value) != state->decimal_type) { PyErr_SetString(PyExc_TypeError, "a Decimal is needed"); return -1; }
    PyObject *text = PyObject_Str(value);
    Py_ssize_t length, begin = buffer->used;
    const char *data = text == NULL ? NULL : PyUnicode_AsUTF8AndSize(text, &length);
    int outcome = data == NULL ? -1 : put_decimal_text(buffer, data, length);
    Py_XDECREF(text);
    if (outcome > 0) put(buffer->data + begin + 8, (unsigned long long)outcome, 2);
    return outcome < 0 ? -1 : 0;
}

/* A new reference to the Decimal of the text that the server writes for a number; NULL without an error where it is none, or infinite. */
static PyObject *numeric_of(const State *state, const unsigned char *at, Py_ssize_t length) {
    if (length < 8) return NULL;
    long groups = (long)get(at, 2), weight = (short)get(at + 2, 2), sign = (long)get(at + 4, 2), scale = (long)get(at + 6, 2);
    /* What is no number is there once only, and Python has it. */
    if (length != 8 + 2 * groups || (sign != 0 && sign != NEGATIVE)) return NULL;
    long whole = weight < 0 ? 1 : 4 * (weight + 1);
    char *text = PyMem_Malloc((size_t)(whole + scale + 8)), *to = text;
    if (text == NULL) { PyErr_NoMemory(); return NULL; }
    if (sign) *to++ = '-';
    if (weight < 0) *to++ = '0';
    for (long place = 0, seen = 0; weight >= 0 && place < whole; place++) {
        long group = place / 4;
        int number = group < groups ? (int)get(at + 8 + 2 * group, 2) : 0;
        for (long rest = place % 4; rest < 3; rest++) number /= 10;
        seen = seen || number % 10 != 0 || place == whole - 1;
        if (seen) *to++ = (char)('0' + number % 10);
    }
    if (scale > 0) *to++ = '.';
    for (long place = 0; place < scale; place++) {
        long group = weight + 1 + place / 4;
        int number = group >= 0 && group < groups ? (int)get(at + 8 + 2 * group, 2) : 0;
        for (long rest = place % 4; rest < 3; rest++) number /= 10;
        *to++ = (char)('0' + number % 10);
    }
    PyObject *spelt = PyUnicode_FromStringAndSize(text, to - text), *made = NULL;
    PyMem_Free(text);
    if (spelt != NULL) made = PyObject_CallOneArg(state->decimal_type, spelt);
    Py_XDECREF(spelt);
    return made;
}
